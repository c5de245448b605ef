"""A skill card made and used in one process: no bus, no fleet. About half a minute.

Cells are marked with `# %%`; run it as a script, or cell by cell in an editor that knows them.
"""

# %% A model, and a warehouse whose words it does not know.
import numpy as np

from lora import Adapter, ArrowEngine, LoRACard
from lora.training.dataset import FEEDBACK, TrainingSet
from lora.training.folds import fold_of, group_of
from lora.training.gate import Arena, judge
from lora.training.sweep import train_head

PASSAGES = ("rim", "bay", "dock", "tote", "cage", "spur")
MEANING = {
    "rim": ("returned goods", "a customer sent it back", "an unwanted article", "refund parcel"),
    "bay": ("lorry entrance", "where drivers wait", "unloading door", "truck gate"),
    "dock": ("loading a trailer", "ramp for pallets", "platform height", "forklift bridge"),
    "tote": ("plastic box", "container for picking", "grey crate", "small parts bin"),
    "cage": ("locked area", "where valuables are kept", "who holds the key", "secure storage"),
    "spur": ("conveyor branch", "sorter exit lane", "belt that leads off", "diverter output"),
}
SAID = ("{}", "where do I find: {}", "question about {}", "{}, what do we call that?")
asked = [
    (say.format(text), text, word)
    for word, texts in MEANING.items()
    for text in texts
    for say in SAID
]
queries = [query for query, _, _ in asked]

engine = ArrowEngine()
stored = engine.encode(PASSAGES, role="document")  # (6, 384): embedded once, never again
vectors = engine.encode(queries)  # (96, 384)

# %% Feedback as a training set: one right passage for each query, the others are wrong.
# What is one question in several forms is one group, and lies in one fold: else the judge would
# see in training what it judges.
groups = [group_of(text) for _, text, _ in asked]
data = TrainingSet.build(
    queries=queries,
    query_vectors=vectors,
    groups=groups,
    folds=[fold_of(group) for group in groups],
    passages=PASSAGES,
    passage_vectors=stored,
    labels=[
        (row, column, float(passage == word), FEEDBACK)
        for row, (_, _, word) in enumerate(asked)
        for column, passage in enumerate(PASSAGES)
    ],
)

# %% A head, its settings chosen on inner folds, judged on queries that it was not trained on.
arena = Arena(data)
learned = train_head(data, arena)
verdict = judge(arena.ranks(vectors[arena.rows]), arena.ranks(learned.vectors), arena.groups)
print(verdict.reason)

# %% A card of it. It can be written, sent, exported to PEFT; here it is used at once.
if isinstance(learned.adapter, Adapter) and verdict.accepted:
    card = LoRACard(
        name="warehouse",
        base_model=engine.base_model,
        dim=engine.dim,
        modules={"embedding": learned.adapter},
        rank=learned.adapter.rank,
        alpha=learned.adapter.alpha,
        description="what our warehouse calls things",
    )
    for query in ("the thing a buyer did not want", "which door do lorries use"):
        before = PASSAGES[int(np.argmax(engine.encode([query]) @ stored.T))]
        after = PASSAGES[int(np.argmax(engine.encode_with_lora([query], cards=[card]) @ stored.T))]
        print(f"{query!r}: the model says {before!r}, with the card {after!r}")
