"""Words for measuring gender in word vectors: those that say one by their meaning, jobs, and the lists of WEAT.

Whoever erases a gender by words and then asks the same words for it has measured nothing: `GENDERED` is parted into
pairs to fit on and pairs to ask by `split_pairs`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efface._errors import InputError
from efface._text import brief, shown
from efface._validate import check_int
from efface.core.doors import fits

Pairs = tuple[tuple[str, str], ...]

DEFINING: Pairs = (
    *(("man", "woman"), ("boy", "girl"), ("he", "she"), ("father", "mother"), ("son", "daughter"), ("guy", "gal")),
    *(("male", "female"), ("his", "her"), ("himself", "herself"), ("john", "mary")),
)
"""The ten pairs by which Bolukbasi and others (arXiv:1607.06520, section 5.1) find the direction of gender."""

_PAIRS = """
man woman, boy girl, he she, father mother, son daughter, male female, his hers, himself herself, him her, men women,
boys girls, fathers mothers, sons daughters, males females, brother sister, brothers sisters, husband wife,
husbands wives, king queen, kings queens, prince princess, princes princesses, uncle aunt, uncles aunts, nephew niece,
nephews nieces, grandfather grandmother, grandfathers grandmothers, grandson granddaughter, grandsons granddaughters,
grandpa grandma, dad mom, dads moms, daddy mommy, papa mama, stepfather stepmother, stepson stepdaughter,
stepbrother stepsister, godfather godmother, godson goddaughter, fatherhood motherhood, paternal maternal,
paternity maternity, brotherhood sisterhood, boyhood girlhood, boyfriend girlfriend, boyfriends girlfriends,
groom bride, grooms brides, fiance fiancee, widower widow, widowers widows, gentleman lady, gentlemen ladies, sir madam,
mr mrs, lad lass, lads lasses, schoolboy schoolgirl, schoolboys schoolgirls, duke duchess, dukes duchesses,
baron baroness, emperor empress, emperors empresses, czar czarina, god goddess, gods goddesses, hero heroine,
heroes heroines, actor actress, actors actresses, waiter waitress, waiters waitresses, host hostess, hosts hostesses,
steward stewardess, stewards stewardesses, heir heiress, heirs heiresses, priest priestess, priests priestesses,
monk nun, monks nuns, monastery convent, abbot abbess, wizard witch, wizards witches, sorcerer sorceress,
businessman businesswoman, businessmen businesswomen, chairman chairwoman, congressman congresswoman,
councilman councilwoman, spokesman spokeswoman, spokesmen spokeswomen, policeman policewoman, policemen policewomen,
salesman saleswoman, salesmen saleswomen, sportsman sportswoman, sportsmen sportswomen, horseman horsewoman,
nobleman noblewoman, cameraman camerawoman, headmaster headmistress, landlord landlady, masseur masseuse,
manservant maidservant, butler maid, butlers maids, cowboy cowgirl, cowboys cowgirls, bull cow, bulls cows,
stallion mare, stallions mares, colt filly, colts fillies, rooster hen, roosters hens, ram ewe, rams ewes, lion lioness,
lions lionesses, stag doe, fraternity sorority, fraternities sororities, patriarch matriarch, patriarchal matriarchal,
patriarchy matriarchy, masculine feminine, masculinity femininity, manly womanly, tenor soprano, baritone contralto,
tenors sopranos, penis vagina, testosterone estrogen, sperm ovum, prostate uterus, testicular ovarian,
bachelor spinster, bachelors spinsters, alumnus alumna, alumni alumnae, latino latina, masters mistresses,
househusband housewife, strongman strongwoman, merman mermaid, mermen mermaids, frenchman frenchwoman,
englishman englishwoman, irishman irishwoman, dutchman dutchwoman, scotsman scotswoman, frenchmen frenchwomen,
englishmen englishwomen, countryman countrywoman, countrymen countrywomen, kinsman kinswoman, assemblyman assemblywoman
"""

GENDERED: Pairs = tuple((male, female) for male, female in (pair.split() for pair in _PAIRS.split(",")))
"""Pairs, male and female, of words that say a gender by their meaning: persons, kin, offices, animals, bodies.

Of the kinds of words in the lists of Bolukbasi and others (arXiv:1607.06520: pairs to equalise, words that are specific
to a gender) and of Zhao and others (arXiv:1809.01496); written anew, in pairs, without words that mean something else
as often.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PROFESSIONS: tuple[str, ...] = _words(
    """accountant acrobat administrator ambassador analyst anthropologist archaeologist architect artist astronaut
    astronomer athlete attorney author baker banker barber bartender biologist bishop bodyguard bookkeeper boxer
    broadcaster broker bureaucrat butcher caretaker carpenter cartoonist cellist chancellor chef chemist
    choreographer cinematographer clerk cleric coach collector colonel columnist comedian commander commentator
    commissioner composer conductor consultant cook cop correspondent counselor critic curator dancer deputy dean
    dentist detective diplomat director doctor drummer economist editor educator electrician employee engineer
    entertainer entrepreneur environmentalist envoy farmer filmmaker financier firefighter gangster
    gardener geologist goalkeeper guitarist hairdresser historian housekeeper illustrator industrialist inspector
    instructor inventor investigator janitor jeweler journalist judge jurist laborer lawmaker lawyer lecturer
    legislator librarian lieutenant lyricist magician magistrate manager mathematician mechanic mediator midfielder
    minister missionary musician nanny narrator naturalist negotiator neurologist neurosurgeon novelist nurse
    officer organist painter paralegal parishioner parliamentarian pathologist pediatrician pharmacist
    philanthropist philosopher photographer photojournalist physician physicist pianist planner playwright plumber
    politician preacher president principal prisoner professor programmer promoter prosecutor protester psychiatrist
    psychologist publicist pundit rabbi ranger realtor receptionist researcher sailor scholar scientist screenwriter
    secretary senator sergeant servant sheriff singer skipper socialite sociologist soldier solicitor stylist
    surgeon surveyor swimmer teacher technician therapist trader treasurer trooper trucker trumpeter tutor tycoon
    undersecretary violinist vocalist warden warrior welder wrestler writer"""
)
"""Jobs by words that say no gender by their meaning, as Bolukbasi and others use."""

MALE_NAMES = ("john", "paul", "mike", "kevin", "steve", "greg", "jeff", "bill")
FEMALE_NAMES = ("amy", "joan", "lisa", "sarah", "diana", "kate", "ann", "donna")
_MALE_TERMS = ("male", "man", "boy", "brother", "he", "him", "his", "son")
_FEMALE_TERMS = ("female", "woman", "girl", "sister", "she", "her", "hers", "daughter")
_MALE_KIN = ("brother", "father", "uncle", "grandfather", "son", "he", "his", "him")
_FEMALE_KIN = ("sister", "mother", "aunt", "grandmother", "daughter", "she", "hers", "her")


@dataclass(frozen=True)
class WordTest:
    """One association test: do the first targets go with the first attributes, and the second with the second?

    Attributes:
        name: What it asks.
        targets: Two lists of words.
        attributes: Two lists of words.
        gendered: Whether it asks about gender.
    """

    name: str
    targets: tuple[tuple[str, ...], tuple[str, ...]]
    attributes: tuple[tuple[str, ...], tuple[str, ...]]
    gendered: bool

    __repr__ = brief


_CAREER = _words("executive management professional corporation salary office business career")
_FAMILY = _words("home parents children family cousins marriage wedding relatives")
_MATH = _words("math algebra geometry calculus equations computation numbers addition")
_ARTS = _words("poetry art dance literature novel symphony drama sculpture")
_SCIENCE = _words("science technology physics chemistry einstein nasa experiment astronomy")
_ARTS_2 = _words("poetry art shakespeare dance literature novel symphony drama")
_FLOWERS = _words(
    """aster clover hyacinth marigold poppy azalea crocus iris orchid rose bluebell daffodil lilac pansy tulip buttercup
    daisy lily peony violet carnation magnolia petunia zinnia"""
)
_INSECTS = _words(
    """ant caterpillar flea locust spider bedbug centipede fly maggot tarantula bee cockroach gnat mosquito termite
    beetle cricket hornet moth wasp blackfly dragonfly horsefly roach"""
)
_PLEASANT = _words(
    """caress freedom health love peace cheer friend heaven loyal pleasure diamond gentle honest lucky rainbow diploma
    gift honor miracle sunrise family happy laughter paradise vacation"""
)
_UNPLEASANT = _words(
    """abuse crash filth murder sickness accident death grief poison stink assault disaster hatred pollute tragedy
    divorce jail poverty ugly cancer kill rotten vomit agony prison"""
)
_INSTRUMENTS = _words(
    """bagpipe cello guitar lute trombone banjo clarinet harmonica mandolin trumpet bassoon drum harp oboe tuba bell
    fiddle harpsichord piano viola bongo flute horn saxophone violin"""
)
_WEAPONS = _words(
    """arrow club gun missile spear axe dagger harpoon pistol sword blade dynamite hatchet rifle tank bomb firearm knife
    shotgun teargas cannon grenade mace slingshot whip"""
)

WEAT: tuple[WordTest, ...] = (
    WordTest("career, family (names)", (MALE_NAMES, FEMALE_NAMES), (_CAREER, _FAMILY), True),
    WordTest("math, arts (names)", (MALE_NAMES, FEMALE_NAMES), (_MATH, _ARTS), True),
    WordTest("science, arts (names)", (MALE_NAMES, FEMALE_NAMES), (_SCIENCE, _ARTS_2), True),
    WordTest("math, arts (terms)", (_MATH, _ARTS), (_MALE_TERMS, _FEMALE_TERMS), True),
    WordTest("science, arts (terms)", (_SCIENCE, _ARTS_2), (_MALE_KIN, _FEMALE_KIN), True),
    WordTest("flowers, insects", (_FLOWERS, _INSECTS), (_PLEASANT, _UNPLEASANT), False),
    WordTest("instruments, weapons", (_INSTRUMENTS, _WEAPONS), (_PLEASANT, _UNPLEASANT), False),
)
"""Tests 6, 7, 8, 1 and 2 of Caliskan, Bryson, Narayanan (arXiv:1608.07187), and, as the code of INLP and SAL has them,
7 and 8 by names. Without gladiola and its partner weevil, which GloVe 6B lacks; ax is spelt axe."""


def split_pairs(*, share: float = 0.5, seed: int = 0) -> tuple[Pairs, Pairs]:
    """`GENDERED` in two: pairs to fit on, `share` of them, and pairs to ask, which have no word in common with those.

    Words of `DEFINING` are never asked: a direction that is found by them has seen them.

    >>> fit, ask = split_pairs()
    >>> {word for pair in fit for word in pair} & {word for pair in ask for word in pair}
    set()
    """
    if not fits(share, float) or not 0 < share < 1:
        raise InputError(f"share is {shown(share)}: write a number between 0 and 1, e.g. 0.5")
    order = np.random.default_rng(check_int(seed, "seed", least=0)).permutation(len(GENDERED))
    defining = {word for pair in DEFINING for word in pair}
    chosen = sorted((GENDERED[i] for i in order), key=defining.isdisjoint)
    least = sum(not defining.isdisjoint(pair) for pair in chosen)
    cut = min(max(round(share * len(chosen)), least), len(chosen) - 1)
    return tuple(chosen[:cut]), tuple(chosen[cut:])
