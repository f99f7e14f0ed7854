"""The known datasets, as data: where each is downloaded, how its pairs are arranged, its published split.

Each entry is one folder with one role: training, validation and test images are never mixed.
"""

from __future__ import annotations

from dataclasses import dataclass

from jdcsuite.data.layouts import NIND, NOISY_CLEAN, SIDD, Layout


@dataclass(frozen=True, kw_only=True)
class File:
    """A file to download. ``checksum``: "sha256:..." or "md5:..." as published by others; None if nobody did: then the
    first download's is recorded and later ones must agree. ``size``: bytes, None if unknown. ``limit``: bytes that a
    file of unknown size may have at most."""

    url: str
    checksum: str | None = None
    size: int | None = None
    limit: int = 1 << 30

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A known dataset, and how its folder is made.

    ``inside``: folder within the archives that becomes the dataset's folder ("": all of it). ``is_test``: it judges
    results and is never trained on. ``layout``: of pairs.
    ``by_hand``: what the user has to do if there is no plain download ({folder} is filled in).
    ``test_scenes``, ``val_scenes``: the published split, as patterns of `Shot.scene`; test scenes are never trained on.
    ``evidence``: where addresses and checksums were read. No address has been tried by the authors of this package:
    treat all of them as unverified until a first `jdc fetch` has worked.
    """

    name: str
    what: str
    licence: str
    files: tuple[File, ...] = ()
    inside: str = ""
    is_test: bool = False
    layout: Layout | None = None
    by_hand: str | None = None
    test_scenes: tuple[str, ...] = ()
    val_scenes: tuple[str, ...] = ()
    evidence: str = ""


_KODAK = """
a56e27cbf5f843c048b6af1d6e090760e9c92fadba88b7dee0205918a37523bd 736501
4f4b74a79237e311d72cad958237b5f7088d8bce1c82305ebefe1a70e3022dfd 617995
e25ca1ff2f0c0cb5fdfd5f9b0a0bb21ac4c3de3c84a67f35b09a85d3306249db 502888
e3b946107c5d3441c022f678d0c3caf1e224d81b1604ba840a4f88e562de61aa 637432
10349e963c5c813d327852f82c1795fa4148d69fedffc4c589bee458e3ac3d53 785610
363510303b715d4cbc384e1ce227e466b613a09e1b71ae985882bf8e7fbd9b18 618959
b77d3f006f42414bb242222e0482e750c0fb9e5ee8d4bed2f6f11c5605fe54a4 566322
ba23983c76b4832ee0e8af0592664756841a16779acd69f792e268fb6d13d6e7 788470
6a4361c2fc194feb4edaa9f9a4a0620fb9943e460ac7fdf037fb0f6dd6607a7d 582899
9dfb70f5867c29ff9ed6313683f19b3d867849e40fbc0c4c54a4a89df341cf23 593463
7936814b58b5387fce2e4e2488b4ec830dadd95fa9520f358ddb30990b50f2b6 621023
d78c37c2f04f23761ed2367dd77e2db584ddd4c3950833fecf89f199a8126980 531024
bc34a3ce58dea09dce1704c997171602de90cb34d0c8503a988b77f473d39b08 822712
55a94550ff18f3246c4074fd32b77b0c74447c26b6ad274d564d999c0450ba6e 692201
7538cbb80cb9103606c48b806eae57d56c885c7f90b9b3be70a41160f9cbb683 612582
a89c7268ccd4718ba424a99fc4643c572cf692ca6eae887185ceb4e9f11d2e54 534247
37afcc89fbdcb76d9518e04b2fc011027e2f4cd14b3b2f83cefd721641a47c5b 602078
1a9258c365988961d87a0598725b609139c303ad48a5aad6c503c3b1a87849aa 780947
b7450b264b1b0a411390d8931b112c27905a992520fc90569dc4b920aa32bbdc 671476
3b46c71e3b92a563820ba32936be8330c586c41f938efd94be938386aae4328a 492462
ac958597c82073f6bb65129c68f72b651db5b9efd82e11547d07350214bc268b 637051
1cee58eb1f2d9c7ebb254d208a03c783ce6cf2c4d8c2cf45e235dd23b4ce1b29 701970
e3111a2fd4da24af15d6459ef9eacfe54106b38e27b4a21821b75c3f5d2d5baf 557596
1071c68372cc5a01435c2c225a5cf7d4bb803846ec08bb6b3d6721b156d7cb96 706397
"""

_ETH = "https://data.vision.ee.ethz.ch/cvl"
_YORK = "http://130.63.97.225/share"
_TFDS = "address, sha256 and size: tensorflow/datasets url_checksums"
_SIDD_LICENCE = "MIT as published with SIDD (third-party note, check)"
_CLIC_LICENCE = "see compression.cc; research use"

ENTRIES = (
    Dataset(
        name="flickr2k",
        what="2650 photographs of about 2040 pixels, training",
        licence="each photographer's Flickr licence; research use",
        files=(
            File(url="https://huggingface.co/datasets/goodfellowliu/Flickr2K/resolve/main/Flickr2K.zip", limit=1 << 35),
        ),
        inside="Flickr2K",
        evidence="mirror of the HR pictures, address and layout: deepinv; the authors' archive, "
        "cv.snu.ac.kr/research/EDSR/Flickr2K.tar (md5 5d3f39443d5e9489bff8963f8f26cb03), is reported dead",
    ),
    Dataset(
        name="div2k",
        what="800 photographs of about 2040 pixels, training",
        licence="academic research only",
        files=(
            File(
                url=f"{_ETH}/DIV2K/DIV2K_train_HR.zip",
                checksum="sha256:9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
                size=3_530_603_713,
            ),
        ),
        inside="DIV2K_train_HR",
        evidence=_TFDS,
    ),
    Dataset(
        name="div2k_valid",
        what="100 photographs of about 2040 pixels, validation",
        is_test=True,
        licence="academic research only",
        files=(
            File(
                url=f"{_ETH}/DIV2K/DIV2K_valid_HR.zip",
                checksum="sha256:20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
                size=448_993_893,
            ),
        ),
        inside="DIV2K_valid_HR",
        evidence=_TFDS,
    ),
    Dataset(
        name="kodak24",
        what="the 24 Kodak pictures, 768x512, test",
        is_test=True,
        licence="released by Kodak for unrestricted use (the host's statement)",
        files=tuple(
            File(
                url=f"https://r0k.us/graphics/kodak/kodak/kodim{number:02d}.png",
                checksum=f"sha256:{line.split()[0]}",
                size=int(line.split()[1]),
            )
            for number, line in enumerate(_KODAK.split("\n")[1:-1], start=1)
        ),
        evidence="addresses: many public scripts; sha256: a public manifest, equal to a copy on GitHub",
    ),
    Dataset(
        name="cbsd68",
        what="68 colour pictures of the Berkeley set, 481x321, JPEG-born, test",
        is_test=True,
        licence="Berkeley: non-commercial research and education",
        # the address of a commit, because "master" may change; the archive also holds noisy versions
        files=(
            File(
                url="https://github.com/clausmichele/CBSD68-dataset/archive/"
                "51a07a95884ac7c8bdd5d1614f9da781adc3c4a0.zip"
            ),
        ),
        inside="CBSD68-dataset-51a07a95884ac7c8bdd5d1614f9da781adc3c4a0/CBSD68/original_png",
        evidence="address and layout: a public TFDS builder; GitHub may repack it, so no checksum is known",
    ),
    Dataset(
        name="urban100",
        what="100 pictures of buildings, test",
        is_test=True,
        licence="CC BY 4.0 (third-party note, check)",
        files=(
            File(
                url="https://huggingface.co/datasets/eugenesiow/Urban100/resolve/main/data/Urban100_HR.tar.gz",
                checksum="md5:65d9d84a34b72c6f7ca1e26a12df1e4c",
            ),
        ),
        inside="Urban100_HR",
        evidence="address: deepinv; md5: public scripts; the authors' page: github.com/jbhuang0604/SelfExSR",
    ),
    Dataset(
        name="sidd",
        what="SIDD-Small sRGB: 160 pairs of whole phone pictures, training",
        licence=_SIDD_LICENCE,
        files=(
            File(
                url=f"{_YORK}/SIDD_Small_sRGB_Only.zip",
                checksum="md5:796971867583bf14677dcae510e52538",
                size=6_615_978_508,
            ),
        ),
        inside="SIDD_Small_sRGB_Only/Data",
        layout=SIDD,
        evidence="the authors' server; md5 of their page as quoted by two public scripts",
    ),
    Dataset(
        name="sidd_medium",
        what="SIDD-Medium sRGB: 320 pairs of whole phone pictures, training",
        licence=_SIDD_LICENCE,
        files=(
            File(
                url=f"{_YORK}/SIDD_Medium_Srgb.zip",
                checksum="md5:f95b4bc9ec1dd3fe4ebd61aeacad3991",
                size=13_234_744_070,
            ),
        ),
        inside="SIDD_Medium_Srgb/Data",
        layout=SIDD,
        evidence="the authors' server; md5 of their page as quoted by three public files",
    ),
    Dataset(
        name="sidd_val",
        what="SIDD validation blocks: 1280 pairs of 256x256, test",
        is_test=True,
        licence=_SIDD_LICENCE,
        files=(
            File(url=f"{_YORK}/SIDD_Blocks/ValidationNoisyBlocksSrgb.mat", size=229_724_517),
            File(url=f"{_YORK}/SIDD_Blocks/ValidationGtBlocksSrgb.mat", size=232_055_617),
        ),
        layout=NOISY_CLEAN,
        evidence="the authors' server; sizes and shape (40, 32, 256, 256, 3) from public scripts",
    ),
    Dataset(
        name="nind",
        what="Natural Image Noise Dataset: 126 scenes, 836 pictures at growing ISO, pairs",
        licence="CC BY 4.0 or CC0, picture by picture",
        layout=NIND,
        by_hand="NIND is single files on commons.wikimedia.org/wiki/Natural_Image_Noise_Dataset: download "
        "them (for instance with src/nind_denoise/tools/dl_ds_1.py of github.com/trougnouf/compression) as "
        "{folder}/SCENE/NIND_SCENE_ISOVALUE.jpg or .png, and the lowest ISO of a scene is its clean picture",
        test_scenes=(
            "*_ursulines-red",
            "*_ursulines-building",
            "*_stefantiek",
            "*_CourtineDeVillersDebris",
            "*_MuseeL-Bobo",
            "*_MuseeL-Bobo-C500D",
        ),
        # what the authors' denoiser holds out too; JDC as published validates on test scenes and trains on these
        val_scenes=("*_7D-2", "*_7D-7", "*_Pen-pile"),
    ),
    Dataset(
        name="clic_pro",
        what="CLIC 2020 professional, the 41 validation pictures",
        is_test=True,
        licence=_CLIC_LICENCE,
        files=(
            File(
                url=f"{_ETH}/clic/professional_valid_2020.zip",
                checksum="sha256:00be38092ade2ab5163b65f7f6523d46c7bca147007f559adbb02c0afc236b7d",
                size=134_834_429,
            ),
        ),
        inside="valid",
        evidence=_TFDS,
    ),
    Dataset(
        name="clic_pro_test",
        what="CLIC 2020 professional, the 250 test pictures",
        is_test=True,
        licence=_CLIC_LICENCE,
        files=(
            File(
                url=f"{_ETH}/clic/test/CLIC2020Professional_test.zip",
                checksum="sha256:857df244fc2bfa5da28d4c66bf0db16ee99bfc79eb807be8afa89cd507852884",
                size=891_643_809,
            ),
        ),
        evidence=f"{_TFDS}; the archive's inner layout is unknown, so all of it is kept",
    ),
    Dataset(
        name="clic_pro_train",
        what="CLIC 2020 professional, the 585 training pictures",
        licence=_CLIC_LICENCE,
        files=(
            File(
                url=f"{_ETH}/clic/professional_train_2020.zip",
                checksum="sha256:54a2a684b5cbd0db91770a8695efb774fed1f612194fee68bceaf6b1c48e5d5f",
                size=2_003_385_131,
            ),
        ),
        inside="train",
        evidence=_TFDS,
    ),
    Dataset(
        name="featured_pictures",
        what="Wikimedia Commons featured pictures taken at ISO 200 or less, clean training",
        licence="free licences, picture by picture",
        by_hand="Featured Pictures are single files: download those of "
        "commons.wikimedia.org/wiki/Category:Featured_pictures_on_Wikimedia_Commons whose EXIF says ISO 200 "
        "or less (src/common/tools/wikidownloader.py and src/nind_denoise/tools/filter_dataset_by_iso.py of "
        "github.com/trougnouf/compression do both) into {folder}/ as image files of any name",
    ),
)
