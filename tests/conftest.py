"""What every test may rely on: no network, few threads, short paths; a tiny model."""

import gc
import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests.object_server import ENVIRONMENT, KINDS, ObjectServer, object_server

# Before any test module imports a library that reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell does that to what it backgrounds
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and children would inherit it
for _name in [name for name in os.environ if name.startswith("CONSONANCE_")]:
    del os.environ[_name]  # a fleet of the developer's own is none of the tests' business

# A shared machine is slow at times; that alone is no failure.
settings.register_profile(
    "consonance", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("consonance")


HERE = Path(__file__).parent
BUCKETS = count()
ROWS = {
    "fleet": "fleets",
    "docs/test_stores.py": "fleets",
    "fleet/test_kill.py": "fleets that wait",
    "fleet/test_restart.py": "fleets that wait",
    "fleet/test_retirement.py": "fleets that wait",
    "services/federation": "nodes",
    "fleet/test_sharing.py": "nodes",
    "fleet/test_poisoned_peer.py": "nodes",
}
"""Files, or all files of a folder, whose tests come one after another."""


class _Rows(LoadScopeScheduling):  # type: ignore[misc]  # it ships no types
    """Where several processes test: what a file shares is made once; fleets, which compete for the
    cores, come in two rows, and nodes, which would discover each other, in one."""

    def _split_scope(self, nodeid: str) -> str:
        path = Path(nodeid.partition("::")[0])
        name = path.relative_to(HERE.name) if path.parts[0] == HERE.name else path
        return ROWS.get(name.as_posix()) or ROWS.get(name.parent.as_posix()) or str(path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Rows:
    return _Rows(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays to the end: nobody looks through it for garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty folder whose path leaves room for socket names (pytest's own may be too long)."""
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def object_servers() -> Iterator[Callable[[str], ObjectServer]]:
    """The object stores of a file's tests, each started when it is first asked for; skips where
    there is none, fails where CI needs one."""
    with ExitStack() as stack:

        @cache
        def started(kind: str) -> ObjectServer:
            if importlib.util.find_spec(KINDS[kind]) is None:
                if os.environ.get("CI") == "true":
                    pytest.fail(f"CI needs {KINDS[kind]}: it is of the extra `test`")
                pytest.skip(f"needs {KINDS[kind]}")
            return stack.enter_context(object_server(kind))

        yield started


@pytest.fixture
def s3(
    object_servers: Callable[[str], ObjectServer], monkeypatch: pytest.MonkeyPatch
) -> ObjectServer:
    """A store that speaks S3, with an empty bucket; who may use it stands in the environment."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return object_servers("s3").with_bucket(f"fleet-{next(BUCKETS)}")


@pytest.fixture
def gs(object_servers: Callable[[str], ObjectServer]) -> ObjectServer:
    """A store that speaks Google's protocol, with an empty bucket; anybody may use it."""
    return object_servers("gs").with_bucket(f"fleet-{next(BUCKETS)}")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers and 32 dimensions: mean pooling, no normalisation, prompts."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz:"]
    words += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    body = Transformer(str(folder / "bert"), max_seq_length=24)
    pooling = Pooling(body.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(
        modules=[body, pooling],
        device="cpu",
        prompts={"query": "ask: ", "document": "doc: "},
    )
    model.save_pretrained(str(folder / "model"))
    return folder / "model"
