"""What is odd about a file of sound that is used all the same, noted as it is read and told in a line for each kind.

Goes in: remarks {kind: cause} of each file. Comes out: the sentences that preprocess ends with.
"""

from collections.abc import Iterable, Iterator

WRONG_HEADER, TORN_END, LEFT_OVER, CANCELLING, SILENT = KINDS = (
    "wrong header", "torn end", "left over", "cancelling", "silent")
SENTENCES = {  # (of one file, of several)
    WRONG_HEADER: ("1 file has a wrong header but all of its sound ({}): read",
                   "{:,} files have a wrong header but all of their sound ({}): read"),
    TORN_END: ("1 file ends within an mp3 frame and states no length ({}): fetch it again if it was cut off",
               "{:,} files end within an mp3 frame and state no length ({}): fetch them again if they were cut off"),
    LEFT_OVER: ("1 file holds bytes that are neither sound nor tags ({}): left out",
                "{:,} files hold bytes that are neither sound nor tags ({}): left out"),
    CANCELLING: ("1 file has channels that cancel one another ({}): the loudest is taken",
                 "{:,} files have channels that cancel one another ({}): the loudest is taken"),
    SILENT: ("1 file holds nothing but silence ({}): used as it is; remove it, or fetch it again",
             "{:,} files hold nothing but silence ({}): used as they are; remove them, or fetch them again"),
}
NUM_NAMED = 3


def remark(remarks: dict[str, str], kind: str, cause: str = "") -> None:
    """Note what is odd about a file; of each kind the first cause is kept."""
    remarks.setdefault(kind, cause)


def remark_sentences(remarks: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Yield a sentence for each kind among `remarks`, (path, kind, cause) of each file, with its first files' names."""
    remarks = list(remarks)
    for kind in KINDS:
        named = [f"{path}: {cause}" if cause else path for path, other, cause in remarks if other == kind]
        if named:
            more = f"; and {len(named) - NUM_NAMED:,} more" if len(named) > NUM_NAMED else ""
            files = "; ".join(named[:NUM_NAMED]) + more
            yield SENTENCES[kind][0].format(files) if len(named) == 1 else SENTENCES[kind][1].format(len(named), files)
