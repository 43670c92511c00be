"""Names of a corpus' folders that are known to be no speaker's, and names of files that say who speaks.

Used by speaker_level to tell which folder of a file is the speaker's. A word here decides nothing alone: folders are
passed over only where all of them at a level are such words and other folders lie within them.
"""

import re

WRAPPERS = {"wav", "wavs", "wave", "waves", "audio", "audios", "flac", "mp3", "clips", "data", "dataset", "recordings",
            "sound", "sounds", "speech", "speaker", "speakers", "voice", "voices", "corpus", "sentences"}
PARTS = {"train", "training", "dev", "test", "testing", "val", "valid", "validation", "eval", "evaluation"}
ENDS = r"(?:[-_ ]*(?:set|data|part|clean|other|noisy|wavs?|audio|[a-d]|\d+))*"  # train-clean-100, dev_other, cd 1
PART = re.compile(r"(?:train(?:ing)?|dev(?:el|elopment)?|test(?:ing)?|val(?:id|idation)?|eval(?:uation)?|"
                  r"enrol(?:l|ment|lment)?)" + ENDS)
CONTAINER = re.compile(r"(?:part|split|fold|subset|batch|set|group|class|dis[ck]|cd|vol(?:ume)?|extras?)" + ENDS)
GENDERS = {"male", "female", "males", "females", "man", "woman", "men", "women", "boy", "girl", "boys", "girls", "m",
           "f", "mc", "fc", "homme", "femme", "hommes", "femmes", "mann", "frau", "hombre", "mujer",
           "男", "女", "男声", "女声", "男生", "女生"}  # mc and fc: control speakers, beside those with a disorder
AGES = {"adult", "adults", "child", "children", "kid", "kids", "teen", "teens", "elderly", "senior", "seniors", "young",
        "old", "youth"}
ACCENT = re.compile(r"dr[-_ ]?\d+|(?:dialect|accent|region|language|lang|l1)[-_ ]?\w*")
LANGUAGES = {
    "arabic", "bengali", "cantonese", "chinese", "czech", "danish", "dutch", "english", "finnish", "french", "german",
    "greek", "gujarati", "hebrew", "hindi", "hungarian", "indonesian", "italian", "japanese", "kannada", "korean",
    "malayalam", "mandarin", "marathi", "norwegian", "persian", "polish", "portuguese", "punjabi", "romanian",
    "russian", "spanish", "swedish", "tamil", "telugu", "thai", "turkish", "ukrainian", "urdu", "vietnamese",
    "american", "australian", "british", "canadian", "indian", "irish", "northern", "scottish", "southern", "us", "uk",
    "welsh",
    "native", "nonnative", "non-native", "non_native", "ar", "cs", "de", "en", "es", "fa", "fr", "hi", "it", "ja", "ko",
    "nl", "pl", "pt", "ru", "ta", "te", "th", "tr", "ur", "vi", "zh", "east", "north", "south", "west"}
HEALTH = {"control", "controls", "dysarthria", "dysarthric", "healthy", "hc", "normal", "parkinson", "parkinsons",
          "pathological", "patient", "patients", "pd", "typical", "atypical"}
EMOTIONS = {"anger", "angry", "calm", "disgust", "disgusted", "fear", "fearful", "happiness", "happy", "neutral", "sad",
            "sadness", "surprise", "surprised"}
_WORDS = (r"(?:sess(?:ion)?|ses|day|visit|week|month|date|rec(?:ording)?|call|take|tape|chap(?:ter)?|video|vid|meeting|"
          r"interview|scene|ep(?:isode)?|clip|trial|round|dialog(?:ue)?|conv(?:ersation)?)s?[-_ ]?")
_DATE = r"(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:[0-2]\d|3[01])(?:\D.*|\d{6})?"
SESSION = re.compile(rf"{_WORDS}\d*|{_DATE}")
SESSION_OF = re.compile(rf"(.+?)[-_ ](?:{_WORDS}\d+|{_DATE})", re.IGNORECASE)  # ann_session1, ann-20080425
NOISE = {"noise", "noises", "background", "background_noises", "silence", "musan", "rirs_noises"}  # beside the speakers
# Corpora whose speakers stand in their files' names (without the ending) alone: the groups. These keep their files in
# folders of words or emotions, those of FLAT in one folder or in parts, where nothing else says who speaks.
FILE_NAMES = {
    "Speech Commands": re.compile(r"([0-9a-f]{8})_nohash_\d+"),
    "CREMA-D": re.compile(r"(\d{4})_[A-Z]{3}_(?:ANG|DIS|FEA|HAP|NEU|SAD)_(?:XX|LO|MD|HI|X)"),
    "TESS": re.compile(r"([OY]A)F?_[A-Za-z'-]+_(?:angry|disgust|fear|happy|neutral|ps|sad)"),
    "IEMOCAP": re.compile(r"(Ses\d\d)[FM]_\w+_([FM])\d{3}"),
}
FLAT = {
    "EmoDB": re.compile(r"(\d\d)[abc]\d\d[WLEAFTN][a-z]?"),
    "THCHS-30": re.compile(r"([A-D]\d{1,2})_\d{1,3}"),
    "Free Spoken Digits": re.compile(r"\d_([a-z]+)_\d+"),
}


def is_word(name: str) -> bool:
    """Return whether a folder's name is known to be of a part, a group of speakers or a kind of file."""
    name = name.lower().strip()
    return (name in WRAPPERS | EMOTIONS | GENDERS | AGES | LANGUAGES | HEALTH or is_part(name) or is_container(name)
            or ACCENT.fullmatch(name) is not None)


def is_part(name: str) -> bool:
    """Return whether a folder's name is of a part of a corpus, such as train-clean-100, whose speakers are the same."""
    return PART.fullmatch(name.lower().strip()) is not None


def is_container(name: str) -> bool:
    """Return whether a folder's name is of a numbered heap, such as group_a, which could be a speaker's after all."""
    return CONTAINER.fullmatch(name.lower().strip()) is not None


def is_common(name: str) -> bool:
    """Return whether one speaker can stand in several folders of this name's kind: parts, emotions, sessions."""
    name = name.lower().strip()
    return name in WRAPPERS | EMOTIONS or is_part(name) or is_container(name) or is_session(name)


def is_of_persons(name: str) -> bool:
    """Return whether a folder's name is a gender or an age, which folders within one speaker's never are."""
    return name.lower().strip() in GENDERS | AGES


def is_session(name: str) -> bool:
    """Return whether a folder's name looks like a session's: a day, a call, a date."""
    return SESSION.fullmatch(name.lower().strip()) is not None
