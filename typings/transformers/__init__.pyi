# Names of transformers are not followed into its sources: there `from .models import *` binds three hundred modules,
# a third of the time of a whole check.
from typing import Any

def __getattr__(name: str) -> Any: ...
