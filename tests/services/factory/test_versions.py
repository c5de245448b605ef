"""The versions that the factory knows: whose fold models stay."""

from pathlib import Path

from schemas import BaseModelRef, SkillCard
from services.factory import versions
from services.factory.versions import VersionStore
from services.runtime.store import open_store


def card(version: int) -> SkillCard:
    return SkillCard(
        name="birds",
        version=version,
        digest=f"sha256:{version:064d}",
        bytes=1,
        rank=1,
        alpha=1.0,
        target_modules=("embedding",),
        base_model=BaseModelRef(id="fake", sha256="0" * 64),
        applies_to=("query",),
        description="",
        prototypes="",
        threshold=None,
        metrics={},
        created="2024-05-01T00:00:00Z",
        parents=(),
    )


def test_the_fold_models_of_the_champion_stay_though_later_versions_were_retired(
    tmp_path: Path,
) -> None:
    store = VersionStore(open_store(tmp_path / "v.sqlite", versions.SCHEMA), tmp_path / "folds")
    source = tmp_path / "made"
    source.mkdir()
    for number in range(1, 7):
        store.learn(card(number), 0.0, ours=True)
        store.keep_folds(card(number).digest, source)
    for number in (4, 5, 6):
        store.forget("birds", card(number).digest)
    store.prune_folds("birds", 2)

    champion = store.newest("birds")
    assert champion is not None
    assert champion.card.version == 3
    assert [number for number in range(1, 7) if store.folds(card(number).digest).exists()] == [2, 3]
