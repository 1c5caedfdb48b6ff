"""The bundle: a zip file from which another machine rebuilds the files of a release.

    bundle.json     what is in it, what it needs, and what must come out (`Bundle`)
    release.json    the release
    recipe.yaml     its recipe
    prompts/        the prompts of its stages, by the names that entered the fingerprints
    own/            modules, prompts and data files of stages that the project does not ship
    journal.jsonl   answers of its models, if wanted

Data files are no part of it: their digests are, and whoever rebuilds must have them.
"""

from __future__ import annotations

from typing import Final

from typing_extensions import TypedDict

FORMAT: Final = 1
"""Version of `bundle.json`; another one is refused."""


class BundleFile(TypedDict):
    """A file by content.

    Attributes:
        name: Its name: of an input the last part of its path, else the path in the zip.
        bytes: Its size.
        sha256: Hash of its content, 64 hex digits.
    """

    name: str
    bytes: int
    sha256: str


class BundleInput(TypedDict):
    """What one option of a stage reads, or what it reads by itself.

    Attributes:
        stage: The stage's name in the recipe.
        option: Its option; None for what the stage reads by itself: files that the project ships,
            the folder of a data set.
        path: The path or pattern as in the recipe; of what it reads by itself the folder.
        files: The files, in the order in which the stage gets them.
    """

    stage: str
    option: str | None
    path: str
    files: list[BundleFile]


class BundleModel(TypedDict):
    """A folder or file of a model.

    Attributes:
        model: The model's name in the recipe.
        key: What of it: "model", "lora", "tokenizer" or "chat_template".
        path: The path as in the recipe.
        bytes: The size of its files.
        digest: Stands for their names and contents.
    """

    model: str
    key: str
    path: str
    bytes: int
    digest: str


class BundleStage(TypedDict):
    """The code of a stage.

    Attributes:
        uses: The stage's full name.
        version: Its version.
        code: Hash of its code.
        prompts: sha256 of its prompts by name.
    """

    uses: str
    version: int
    code: str
    prompts: dict[str, str]


class Bundle(TypedDict):
    """What `bundle.json` holds.

    Attributes:
        format: `FORMAT` of whoever wrote it.
        release: The release's name and version, "name@1.2".
        program: The version of Gristmill.
        python: The version of Python.
        stages: The code of the stages.
        inputs: What the stages read.
        models: Weights, tokenizers and templates in local folders.
        members: The other files of the zip.
    """

    format: int
    release: str
    program: str
    python: str
    stages: list[BundleStage]
    inputs: list[BundleInput]
    models: list[BundleModel]
    members: list[BundleFile]
