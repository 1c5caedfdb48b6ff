"""`croissant.json`: the release in Croissant 1.1, with where its rows come from (PROV-O).

Each split of each config is a record set over its files, which are read from the folder of
`croissant.json`. The turns of a conversation are one field with subfields. What is nested
deeper (tool calls) is named and not described: readers have no lists within lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.publication import Publish
from pipeline.store.store import Store
from schemas.release import Release, ReleaseStage
from stages.publish import _facts, _shards
from stages.publish.licenses import whole

CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.1"

CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{
        name: f"cr:{name}"
        for name in (
            *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract"),
            *("field", "fileProperty", "fileObject", "fileSet", "format", "includes", "isArray"),
            *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
            *("references", "regex", "repeated", "replace", "samplingRate", "separator"),
            *("source", "subField", "transform"),
        )
    },
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
"""The context of the specification, with PROV-O."""

ENCODINGS: Final = {
    ".parquet": "application/x-parquet",
    ".jsonl": "application/jsonlines",
    ".gz": "application/jsonlines",
    ".json": "application/json",
    ".md": "text/markdown",
}
DATA_TYPES: Final = {"bool": "sc:Boolean", "int": "sc:Integer", "uint": "sc:Integer"}
"""By the beginning of a type of `datasets`; `float` and texts have their own rules."""


def croissant(
    store: Store, release: Release, snapshot: Snapshot, options: Publish
) -> dict[str, Any]:
    """The release as Croissant describes it.

    Args:
        store: Where its artifacts are.
        release: The release.
        snapshot: Its rows.
        options: The recipe's section `publish`.
    """
    rows = _facts.published_rows(snapshot, release, ["origins", "language"])
    license_ = whole(release["licenses"])
    configs = _shards.loadable(_shards.configs(store, release))
    name = _shards.repository(options.to)
    languages = [entry["language"] for entry in _facts.languages(rows)]
    values: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": release["name"],
        "description": f"{len(rows):,} rows for fine-tuning language models.",
        "version": release["version"],
        "datePublished": release["created"],
        "citeAs": _citation(release),
        "license": sorted(release["licenses"]) or ["unknown"],
        "usageInfo": {
            "@type": "sc:CreativeWork",
            "name": license_.name,
            "description": "; ".join((*license_.obligations, *license_.conflicts)),
        },
        "inLanguage": languages,
        "url": f"https://huggingface.co/datasets/{name}" if name else None,
        "keywords": ["instruction tuning", "fine-tuning"],
        "distribution": [*_files(release), *_file_sets(configs)],
        "recordSet": [r for c in configs for r in _record_sets(c)],
        "prov:wasDerivedFrom": [*_entities(release, _facts.sources(rows))],
        "prov:wasGeneratedBy": [*_activities(release)],
    }
    return {name: value for name, value in values.items() if value}


def _citation(release: Release) -> str:
    """How to cite the release itself: it has a name, a version and a year, and no authors."""
    name, version = release["name"], release["version"]
    year = release["created"][:4]
    return (
        f"@misc{{{name}-{version}, title = {{{name}}}, version = {{{version}}}, year = {{{year}}}}}"
    )


def _files(release: Release) -> Iterator[dict[str, Any]]:
    """Every exported file with its digest, but the cards that this publication replaces."""
    several = len({file["stage"] for file in release["files"]}) > 1
    for file in release["files"]:
        path = f"{file['stage']}/{file['path']}" if several else file["path"]
        if path == _shards.README:
            continue
        yield {
            "@type": "cr:FileObject",
            "@id": path,
            "name": path,
            "contentUrl": path,
            "contentSize": f"{file['bytes']} B",
            "encodingFormat": _encoding(path),
            "sha256": file["sha256"],
        }


def _encoding(path: str) -> str:
    return ENCODINGS.get(f".{path.rpartition('.')[2]}", "application/octet-stream")


def _file_sets(configs: Sequence[_shards.Config]) -> Iterator[dict[str, Any]]:
    for config in configs:
        for split in config.splits:
            yield {
                "@type": "cr:FileSet",
                "@id": f"{config.prefix}{split.name}-files",
                "name": f"{config.prefix}{split.name}-files",
                "encodingFormat": _encoding(split.pattern),
                "includes": split.pattern,
            }


def _record_sets(config: _shards.Config) -> Iterator[dict[str, Any]]:
    features = _shards.dataset_info(config)["features"]
    has_id = any(feature["name"] == "id" for feature in features)
    for split in config.splits:
        name = f"{config.prefix}{split.name}"
        yield {
            "@type": "cr:RecordSet",
            "@id": name,
            "name": name,
            "description": f"{split.rows:,} rows.",
            **({"key": {"@id": f"{name}/id"}} if has_id else {}),
            "field": [
                _field(name, f"{name}-files", feature)
                for feature in features
                if _is_described(feature, split.pattern)
            ],
        }


def _field(record_set: str, files: str, feature: Mapping[str, Any]) -> dict[str, Any]:
    """A column as a field.

    Args:
        record_set: The id of its record set.
        files: The id of its files.
        feature: The column as `datasets` describes it: `name`, and `dtype`, `struct` or `list`.
    """
    name = feature["name"]
    field: dict[str, Any] = {"@type": "cr:Field", "@id": f"{record_set}/{name}", "name": name}
    source = {"fileSet": {"@id": files}, "extract": {"column": name}}
    if "list" in feature:
        field |= {"isArray": True, "arrayShape": "-1"}
    parts = feature.get("list", feature.get("struct"))
    if not isinstance(parts, list):
        return field | {"dataType": data_type(parts or feature["dtype"]), "source": source}
    if nested := [part["name"] for part in parts if "dtype" not in part]:
        field["description"] = f"Not described: {', '.join(nested)}, which have parts of their own."
    field["subField"] = [
        {
            "@type": "cr:Field",
            "@id": f"{record_set}/{name}/{part['name']}",
            "name": part["name"],
            "dataType": data_type(part["dtype"]),
            "source": source | {"transform": {"jsonPath": part["name"]}},
        }
        for part in parts
        if "dtype" in part
    ]
    return field


def _is_described(feature: Mapping[str, Any], pattern: str) -> bool:
    """Whether a field can be read: JSON is a text in Parquet, elsewhere a value of any shape."""
    kinds = (feature.get("dtype"), feature.get("list"))
    return pattern.endswith(".parquet") or "json" not in kinds


def data_type(dtype: Any) -> str:
    """Croissant's name for a type of `datasets`; whatever is no number or flag is a text.

    Args:
        dtype: The name, such as `int32`.

    >>> data_type("int32"), data_type("float64"), data_type("json")
    ('sc:Integer', 'sc:Float', 'sc:Text')
    """
    name = str(dtype)
    if name.startswith("float"):
        return "sc:Float"
    return next((v for k, v in DATA_TYPES.items() if name.startswith(k)), "sc:Text")


def _entities(release: Release, sources: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each source with its license, its rows, and what it was read from."""
    loads: dict[str, list[ReleaseStage]] = {}
    for stage in _facts.upstream(release):
        source = stage["parts"].get("options", {}).get("source")
        if isinstance(source, str):
            loads.setdefault(source, []).append(stage)
    for number, entry in enumerate(sources, 1):
        stages = loads.get(entry["source"], [])
        options = [stage["parts"]["options"] for stage in stages]
        digests = [d for o in options for d in o.get("path") or () if isinstance(d, str)]
        # A data set that is a folder counts by its files, and has no address.
        on_hub = [stage["parts"]["options"] for stage in stages if not stage["parts"].get("files")]
        datasets = [o["dataset"] for o in on_hub if isinstance(o.get("dataset"), str)]
        values = {
            "@type": "prov:Entity",
            "@id": f"#source-{number}",
            "prov:label": entry["source"] or "unknown",
            "license": entry["license"] or "unknown",
            "description": f"{entry['rows']:,} rows.",
            "sha256": digests,
            "prov:atLocation": [f"https://huggingface.co/datasets/{name}" for name in datasets],
            "prov:wasGeneratedBy": [{"@id": _activity_id(stage["name"])} for stage in stages],
        }
        yield {name: value for name, value in values.items() if value}


def _activity_id(stage: str) -> str:
    return f"#stage-{stage}"


def _activities(release: Release) -> Iterator[dict[str, Any]]:
    """Each stage that the rows came through, after those that it used."""
    models: dict[str, list[str]] = {}
    for model in release["models"]:
        models.setdefault(model["stage"], []).append(_facts.model_name(model["identity"]))
    for method in _facts.methods(_facts.upstream(release)):
        used = dict.fromkeys(name for names in method["needs"].values() for name in names)
        agents = dict.fromkeys(models.get(method["name"], []))
        values = {
            "@type": "prov:Activity",
            "@id": _activity_id(method["name"]),
            "prov:label": f"{method['uses']} version {method['version']}",
            "description": method["about"],
            "prov:wasInformedBy": [{"@id": _activity_id(name)} for name in used],
            "prov:wasAssociatedWith": [
                {"@type": "prov:SoftwareAgent", "prov:label": agent} for agent in agents
            ],
            "citation": [paper.url or paper.label for paper in method["papers"]],
        }
        yield {name: value for name, value in values.items() if value}
