"""Which folder is the speaker's, on the published layouts of corpora; no audio is needed, paths tell."""

import itertools

import pytest

from src.apps.make_competition.folder_walk import NoSpeakers
from src.apps.make_competition.speaker_level import find_speakers


def paths(*patterns):
    """Return path parts of every pattern: "{a,b}/{1,2}.wav" stands for four files."""
    files = []
    for pattern in patterns:
        pieces = [piece.split("}") for piece in pattern.split("{")]
        choices = [piece[0].split(",") if len(piece) == 2 else [""] for piece in pieces]
        ends = [piece[-1] for piece in pieces]
        for chosen in itertools.product(*choices):
            files.append(tuple("".join(map("".join, zip(chosen, ends))).split("/")))
    return files


LAYOUTS = {  # what lies there, the speakers, where they stand
    "TIMIT": (paths("TRAIN/DR1/{FCJF0,MDPK0}/{SA1,SA2,SX37}.WAV", "TRAIN/DR2/{FAEM0,MARC0}/{SA1,SA2,SX38}.WAV",
                    "TEST/DR1/{FAKS0,MDAB0}/{SA1,SA2,SX39}.WAV"), "FAEM0 FAKS0 FCJF0 MARC0 MDAB0 MDPK0", "third"),
    "TIMIT's training part": (paths("DR1/{FCJF0,MDPK0}/SA{1,2}.WAV", "DR2/{FAEM0,MARC0}/SA{1,2}.WAV"),
                              "FAEM0 FCJF0 MARC0 MDPK0", "second"),
    "LibriTTS": (paths("dev-clean/84/121123/84_121123_{000001,000002}.wav", "dev-clean/174/50561/174_50561_000001.wav",
                       "train-clean-100/{19/198/19_198,26/495/26_495}_00000{1,2}.wav"), "174 19 26 84", "second"),
    "LibriSpeech": (paths("dev-clean/{84/121123/84-121123,174/50561/174-50561}-000{1,2}.flac",
                          "test-other/{1688/142285/1688-142285,1998/15444/1998-15444}-000{1,2}.flac"),
                    "1688 174 1998 84", "second"),
    "Multilingual LibriSpeech": (paths("train/audio/{10148/10119/10148_10119,1020/9/1020_9}_00000{1,2}.flac",
                                       "dev/audio/{5764/8/5764_8,77/3/77_3}_00000{1,2}.flac"), "10148 1020 5764 77",
                                 "third"),
    "genders": (paths("Male/{M00,M01}/{1,2}.wav", "Female/{F00,F01}/{1,2}.wav"), "F00 F01 M00 M01", "second"),
    "genders of equal numbers": (paths("{male,female}/{1,2}/{a,b}.wav"), "female_1 female_2 male_1 male_2", "second"),
    "TORGO": (paths("F/F0{1,3}/Session{1,2}/wav_headMic/000{1,2}.wav", "MC/MC0{1,2}/Session1/wav_headMic/0001.wav"),
              "F01 F03 MC01 MC02", "second"),
    "CMU ARCTIC": (paths("cmu_us_{bdl,slt,rms}_arctic/wav/arctic_{a0001,a0002}.wav"),
                   "cmu_us_bdl_arctic cmu_us_rms_arctic cmu_us_slt_arctic", "first"),
    "L2-ARCTIC by language": (paths("Arabic/{ABA,SKA}/wav/arctic_a000{1,2}.wav", "Hindi/{ASI,RRBI}/wav/arctic_a1.wav"),
                              "ABA ASI RRBI SKA", "second"),
    "CN-Celeb": (paths("data/id0001{2,3,4}/singing-01-00{1,2}.flac", "eval/enroll/id00800-enroll.flac"),
                 "id00012 id00013 id00014", "second"),
    "VoxCeleb": (paths("dev/aac/id00{012,015}/{21Uxsk56VDQ,2DLq_Kkc1r8}/0000{1,2}.m4a"), "id00012 id00015", "third"),
    "AISHELL-1": (paths("wav/train/S000{2,3}/BAC009S0002W012{2,3}.wav", "wav/test/S0764/BAC009S0764W0121.wav"),
                  "S0002 S0003 S0764", "third"),
    "AISHELL-3": (paths("train/wav/{SSB0005/SSB0005,SSB0009/SSB0009}000{1,2}.wav", "test/wav/SSB0011/SSB00110001.wav"),
                  "SSB0005 SSB0009 SSB0011", "third"),
    "GRID": (paths("s{1,2,10}/{bbaf2n,bbaf3s}.wav"), "s1 s10 s2", "first"),
    "RAVDESS": (paths("Actor_0{1,2}/03-01-01-01-01-0{1,2}-01.wav"), "Actor_01 Actor_02", "first"),
    "RAVDESS, held twice": (paths("Actor_0{1,2}/03-01-01-01-01-0{1,2}-01.wav",
                                  "audio_speech_actors_01-24/Actor_0{1,2}/03-01-01-01-01-0{1,2}-01.wav"),
                            "Actor_01 Actor_02", "first or second"),
    "Zeroth": (paths("train_data_01/{003/106/106_003,003/117/117_003,004/103/103_004,004/212/212_004}_000{0,1}.flac"),
               "103 106 117 212", "third"),
    "VCTK": (paths("wav48_silence_trimmed/{p225/p225,p226/p226}_00{1,2}_mic{1,2}.flac"), "p225 p226", "second"),
    "ESD": (paths("English/{0011/Angry/0011,0012/Happy/0012}_000{351,352}.wav",
                  "Mandarin/{0001/Angry/0001,0002/Happy/0002}_000{351,352}.wav"), "0001 0002 0011 0012", "second"),
    "sessions above speakers": (paths("session{1,2,3}/{ann,bob}/{1,2}.wav"), "ann bob", "second"),
    "sessions below speakers": (paths("{ann,bob}/session{1,2,3}/{1,2}.wav"), "ann bob", "first"),
    "days that begin the names": (paths("{ann,bob}/{monday/monday,friday/friday}_{1,2}.wav"), "ann bob", "first"),
    "a speaker's name in a session's": (paths("{ann/ann1/ann1,ann/ann2/ann2,bob/bob1/bob1}_{1,2}.wav"), "ann bob",
                                        "first"),
    "Speech Commands": (paths("{bed,cat}/{00176480,004ae714}_nohash_{0,1}.wav"), "00176480 004ae714", "names"),
    "EmoDB": (paths("{03,08,16}{a01Fa,a02Nc,b10Wa}.wav"), "03 08 16", "names"),
    "EmoDB in its folder": (paths("wav/{03,08,16}{a01Fa,a02Nc,b10Wa}.wav"), "03 08 16", "names"),
    "THCHS-30": (paths("data/{A11,B2,C4}_{0,10}.wav"), "A11 B2 C4", "names"),
    "TESS": (paths("{OAF_angry/OAF_,YAF_angry/YAF_}{back,bar}_angry.wav"), "OA YA", "names"),
    "VoxForge": (paths("{ralf-20070803-de10,ralf-20070811-de21,timo-20090101-abc}/wav/{a1,a2}.wav"), "ralf timo",
                 "first"),
    "sessions in the folders' names": (paths("{ann_session1,ann_session2,bob_session1}/{1,2}.wav"), "ann bob", "first"),
    "genders in countries": (paths("{Kenya,Peru}/{Male,Female}/s1/{a,b}.wav"),
                             "Kenya_Female_s1 Kenya_Male_s1 Peru_Female_s1 Peru_Male_s1", "third"),
    "genders below speakers": (paths("ann/female/s{1,2}/{a,b}.wav", "bob/male/s{1,2}/{a,b}.wav"), "ann bob", "first"),
    "CREMA-D": (paths("AudioWAV/100{1,2}_{DFA,IEO}_ANG_XX.wav"), "1001 1002", "names"),
}


@pytest.mark.parametrize(("files", "speakers", "where"), LAYOUTS.values(), ids=LAYOUTS)
def test_published_layouts_give_their_speakers(files, speakers, where):
    found = find_speakers(files)
    assert sorted({place.speaker for place in found.places.values()}) == speakers.split()
    assert where in found.where


@pytest.mark.parametrize(("files", "hint"), [
    (paths("{Kerala,Punjab}/{F01,F02}_{1,2}/x.wav"), ""),  # every folder stands in both
    (paths("Kerala/{A,B}/{1,2}.wav", "Punjab/{C,D}/{1,2}.wav"),
     "4 folders lie further down: A, B, C, D; if these are the speakers, give --speaker-level 2"),
    (paths("Kerala/{A,B}/{1,2}.wav", "Punjab/{C,D}/{1,2}.wav", "loose.wav"), "--speaker-level 2"),
    (paths("train/{A,B}/{1,2}.wav", "test/{C,D}/{1,2}.wav"), "test, train are taken for no speakers; if they are, "),
    (paths("{003/106/106,004/117/117}_{1,2}.wav"), "if 003, 004 are the speakers, give --speaker-level 1"),
    (paths("{a,b}/{1,2}.wav"), ""),
])
def test_what_else_could_be_the_speakers_is_told(files, hint):
    found = find_speakers(files)
    assert (hint in found.hint) if hint else not found.hint


@pytest.mark.parametrize(("files", "said"), [
    (paths("{1,2}.wav"), "lie in no speaker's folder"),
    (paths("{male,female}/{1,2}.wav"), "named female, male, which are no speakers; where they are, give --speaker"),
    (paths("{happy,sad}/{1,2}.wav"), "which are no speakers"),
    (paths("{00/00a1b2c3d4e5f6a7b8,ff/ff00112233445566}.flac"), "hashes and tell no speakers"),
])
def test_folders_that_can_be_no_speakers_are_refused(files, said):
    with pytest.raises(NoSpeakers, match=said):
        find_speakers(files)


def test_sessions_above_and_in_names_are_sessions():
    above = find_speakers(paths("session{1,2}/{ann,bob}/1.wav")).places
    assert {place.session for place in above.values()} == {"session1", "session2"}
    within = find_speakers(paths("{ann-20080425-x,ann-20080501-y,bob-20090101-z}/wav/1.wav")).places
    assert {(place.speaker, place.session) for place in within.values()} == {
        ("ann", "ann-20080425-x/wav"), ("ann", "ann-20080501-y/wav"), ("bob", "bob-20090101-z/wav")}
    anonymous = find_speakers(paths("{ann-20080425-x,ann-20080501-y,anonymous-20090101-z}/1.wav")).places
    assert {place.speaker for place in anonymous.values()} == {"ann", "anonymous-20090101-z"}
