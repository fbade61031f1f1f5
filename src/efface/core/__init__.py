"""The ground floor's values: erasure, edits, handle, concept, method; and the one installer that puts edits on."""
