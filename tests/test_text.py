"""Captions to tokens: a small encoder that is trained, and MiniLM, which is not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from reverie.core import cache as home
from reverie.nets.bert import MiniLM, bert, word_pieces
from reverie.nets.text import Layer, TextEncoder, pieces, words_of
from reverie.pretrained import readers, weights
from reverie.probability.conditioning import lengths_beyond

CAPTIONS = ["red heart", "", "a man riding a wave on top of a surfboard", "cat", "smiling cat face, with heart-eyes"]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    encoder = TextEncoder(16, 2)
    encoder.positions.data.normal_()
    return encoder


# ------------------------------------------------------------------------------------------------ the encoder we train


def test_words_are_lower_case_and_signs_are_words():
    assert words_of("Red_heart, CAFÉ 2x!") == ["red", "heart", ",", "café", "2x", "!"]
    assert words_of("cafe\u0301") == words_of("café") and words_of(" _\t\n") == []
    assert len(words_of("word " * 100)) == 100


def test_the_hash_is_the_same_everywhere_and_words_share_their_trigrams():
    assert pieces("a") == (683,) and len(pieces("heart")) == 6
    assert set(pieces("hearts")) >= set(pieces("heart")[1:-1])


def test_a_caption_alone_is_the_caption_in_a_batch(encoder):
    tokens, there = encoder(CAPTIONS)
    assert there.sum(1).tolist() == [2, 1, 10, 1, 8] and tokens.shape == (5, 10, 16)
    for row, caption in enumerate(CAPTIONS):
        alone, all_there = encoder([caption])
        assert all_there.all()
        torch.testing.assert_close(alone[0], tokens[row, : alone.shape[1]], rtol=0, atol=1e-5)


def test_a_text_encoder_reads_as_many_words_as_it_is_made_for(encoder):
    long = "word " * 100
    assert TextEncoder(16)([long])[0].shape == (1, 24, 16) and TextEncoder(16, length=60)([long])[0].shape[1] == 60
    assert torch.equal(encoder([long])[0], encoder([long + "more"])[0])
    assert lengths_beyond(encoder, [long, "short", "a" * 99, "word " * 24]) == [100]


def test_training_evaluation_and_inference_give_the_same_tokens(encoder):
    tokens, there = encoder.train()(CAPTIONS)
    with torch.inference_mode():
        again, again_there = encoder.eval()(CAPTIONS)
    assert torch.equal(there, again_there) and torch.equal(tokens[there], again[there])


def test_no_words_are_the_null_caption_which_is_one_learned_token(encoder):
    empty, there = encoder(["", " _ "])
    assert there.tolist() == [[True], [True]] and torch.equal(empty[0], empty[1])
    assert (empty[0, 0] - encoder(["cat"])[0][0, 0]).abs().max() > 0.01


def test_the_order_of_words_matters_but_nothing_random_does(encoder):
    before = torch.random.get_rng_state()
    (first, _), (other, _), (again, _) = (
        encoder(["dog bites man"]),
        encoder(["man bites dog"]),
        encoder(["dog bites man"]),
    )
    assert torch.equal(before, torch.random.get_rng_state()) and torch.equal(first, again)
    assert (first.mean(1) - other.mean(1)).abs().max() > 0.01


@pytest.mark.parametrize("captions", [CAPTIONS, ["", ""]], ids=["words", "none"])
def test_every_weight_has_a_gradient_even_where_all_captions_are_hidden(encoder, captions):
    """Ranks add up their gradients in one message: a rank without words must send as many numbers as the others."""
    encoder.zero_grad()
    tokens, there = encoder(captions)
    (tokens[there] * noise(16).float()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert encoder.null.grad.any() and bool(encoder.embedding.weight.grad.any()) == (captions is CAPTIONS)


def test_a_layer_is_torchs_own():
    ours, theirs = Layer(16).double(), nn.TransformerEncoderLayer(16, 4, 32, 0.0, "gelu", 1e-5, True, True).double()
    for parameter in ours.parameters():
        parameter.data += 0.1 * noise(*parameter.shape)
    theirs.self_attn.in_proj_weight.data, theirs.self_attn.in_proj_bias.data = ours.qkv.parameters()
    pairs = (ours.out, theirs.self_attn.out_proj), (ours.norm1, theirs.norm1), (ours.norm2, theirs.norm2)
    for mine, their in (*pairs, (ours.mlp[0], theirs.linear1), (ours.mlp[2], theirs.linear2)):
        their.load_state_dict(mine.state_dict())
    x, there = noise(3, 6, 16), torch.arange(6) < torch.tensor([6, 1, 4])[:, None]
    torch.testing.assert_close(ours(x, there)[there], theirs(x, src_key_padding_mask=~there)[there])


def test_bf16_is_close_to_full_precision(encoder):
    tokens, there = encoder(CAPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = encoder(CAPTIONS)
    assert (rough - tokens)[there].abs().mean() < 0.02


# ---------------------------------------------------------------------------------------------------------------- BERT

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "un",
    "##aff",
    "##able",
    "red",
    "heart",
    "##s",
    ",",
    "-",
    "cafe",
    "你",
    "好",
]
WORDS += ["i", "##i", "!", "$", "a", "##a"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("unaffable", ["un", "##aff", "##able"]),
        ("Red  HEARTS,\tred-heart!", ["red", "heart", "##s", ",", "red", "-", "heart", "!"]),
        ("Café cafe\u0301", ["cafe", "cafe"]),
        ("red你好heart", ["red", "你", "好", "heart"]),
        ("unred heartx", ["[UNK]", "[UNK]"]),  # what is left of a word is not known: nothing of it is
        ("İI$", ["i", "##i", "$"]),
        ("re\x00d\u200b hea\ufffdrt", ["red", "heart"]),
        ("a" * 100, ["a"] + ["##a"] * 99),
        ("a" * 101, ["[UNK]"]),
        (" \n", []),
    ],
)
def test_words_are_cut_into_the_longest_known_pieces(text, expected):
    assert [WORDS[n] for n in word_pieces(text, {word: n for n, word in enumerate(WORDS)})] == expected


def tiny_bert(width: int = 12, depth: int = 2, words: int = len(WORDS)) -> dict[str, torch.Tensor]:
    shapes = {f"embeddings.{name}_embeddings.weight": (n, width) for name, n in (("word", words), ("position", 64))}
    shapes["embeddings.token_type_embeddings.weight"] = (2, width)
    linears = {"embeddings.LayerNorm": (width,)}
    for layer in (f"encoder.layer.{i}" for i in range(depth)):
        linears |= {f"{layer}.attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        linears |= {f"{layer}.attention.output.dense": (width, width), f"{layer}.attention.output.LayerNorm": (width,)}
        linears |= {f"{layer}.intermediate.dense": (2 * width, width), f"{layer}.output.dense": (width, 2 * width)}
        linears |= {f"{layer}.output.LayerNorm": (width,)}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: noise(*shape, seed=number) for number, (name, shape) in enumerate(shapes.items())}


def test_bert_is_embeddings_and_torchs_own_layers():
    state, numbers = tiny_bert(), torch.tensor([[2, 7, 8, 3], [2, 8, 19, 3]])
    x = state["embeddings.word_embeddings.weight"][numbers]
    x = x + state["embeddings.position_embeddings.weight"][:4] + state["embeddings.token_type_embeddings.weight"][0]
    norm = [state[f"embeddings.LayerNorm.{part}"] for part in ("weight", "bias")]
    x = nn.functional.layer_norm(x, (12,), *norm, 1e-12)
    for i in range(2):
        theirs = nn.TransformerEncoderLayer(12, 3, 24, 0.0, "gelu", 1e-12, True).double()
        of = {name.removeprefix(f"encoder.layer.{i}."): t for name, t in state.items() if f"layer.{i}." in name}
        layer = {}
        for part in ("weight", "bias"):
            qkv = [of[f"attention.self.{what}.{part}"] for what in ("query", "key", "value")]
            layer |= {f"self_attn.in_proj_{part}": torch.cat(qkv)}
            layer |= {f"self_attn.out_proj.{part}": of[f"attention.output.dense.{part}"]}
            layer |= {
                f"norm1.{part}": of[f"attention.output.LayerNorm.{part}"],
                f"norm2.{part}": of[f"output.LayerNorm.{part}"],
            }
            layer |= {
                f"linear1.{part}": of[f"intermediate.dense.{part}"],
                f"linear2.{part}": of[f"output.dense.{part}"],
            }
        theirs.load_state_dict(layer)
        x = theirs(x)
    torch.testing.assert_close(bert(state, numbers, heads=3), x)


def tiny_fetched():
    return {name: tensor.float() for name, tensor in tiny_bert().items()}, WORDS


@pytest.fixture
def fetched():
    return []


@pytest.fixture
def mini(fetched) -> MiniLM:
    def fetch():
        fetched.append("asked")
        return tiny_fetched()

    return MiniLM(fetch)


def test_minilm_fetches_at_the_first_caption_once_and_reads_a_caption_once(mini, fetched):
    twin = copy.deepcopy(mini)
    assert not fetched
    assert torch.equal(mini(["red heart"])[0], twin(["red heart"])[0])
    mini(["hearts"])
    assert fetched == ["asked"] and twin.embed("hearts") is mini.embed("hearts")
    assert MiniLM(tiny_fetched).embed("hearts") is MiniLM(tiny_fetched).embed("hearts")  # two models, one memory


def test_minilm_leaves_nothing_in_a_checkpoint_and_nothing_to_train(mini):
    mini(["red heart"])
    assert not mini.state_dict() and not list(mini.parameters())
    assert not mini(["red heart"])[0].requires_grad


def test_a_caption_has_the_same_bits_in_any_batch_precision_and_mode(mini):
    captions = ["hearts", "", "red, red heart", "red " * 100]
    tokens, there = mini(captions)
    assert there.sum(1).tolist() == [4, 2, 6, 64] and tokens.shape == (4, 64, 12)
    for row, caption in enumerate(captions):
        other = MiniLM(lambda: tiny_fetched())  # another function: it reads anew
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            alone, _ = other([caption])
        assert torch.equal(alone[0], tokens[row][there[row]])


def test_minilm_reads_as_many_tokens_as_it_is_asked_for(mini, fetched):
    short = MiniLM(mini.fetch, 3)
    assert short(["red " * 100])[0].shape[1] == 5 and mini(["red " * 100])[0].shape[1] == 64
    assert lengths_beyond(short, ["red", "red red red", "red red red red"]) == [4]
    assert fetched == ["asked"], "two lengths share the weights"


def test_what_was_first_read_while_drawing_can_be_learned_from(mini):
    with torch.inference_mode():
        mini(["red heart"])
    layer = nn.Linear(12, 3)
    layer(mini(["red heart"])[0]).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.any()


def test_a_vocabulary_keeps_its_order_and_the_pooler_is_left_out():
    text = "[PAD]\n\u2028odd\nlast\n"
    assert weights.words_in(readers.read_words(text.encode())) == ["[PAD]", "\u2028odd", "last"]
    data = weights.to_bytes(
        tiny_bert() | {"pooler.dense.bias": torch.ones(2), "embeddings.position_ids": torch.ones(2)}
    )
    assert readers.read_bert(data).keys() == tiny_bert().keys()


OWN_HOME = home.home()  # of whoever runs the tests, read before the tests get a cache of their own


@pytest.fixture
def real(monkeypatch):
    monkeypatch.setenv("REVERIE_HOME", str(OWN_HOME))
    if any(weights.state(name) != "here" for name in ("minilm", "minilm-words")):
        pytest.skip("needs reverie weights minilm minilm-words --fetch")
    return MiniLM(lambda: (weights.load("minilm"), weights.words_in(weights.load("minilm-words"))))


def test_minilm_means_what_sentence_transformers_says(real):
    """The first numbers of two normalised mean vectors by transformers 4.46.3's BertModel."""

    def mean(text):
        return nn.functional.normalize(real([text])[0][0].mean(0), dim=0)

    golden = {
        "red heart": [-0.03375, -0.00806, -0.03866, 0.07306],
        "fire engine": [-0.08185, 0.08325, -0.0391, 0.03096],
    }
    for text, numbers in golden.items():
        torch.testing.assert_close(mean(text)[:4], torch.tensor(numbers), rtol=0, atol=1e-4)
    assert mean("red heart") @ mean("heart suit") > mean("red heart") @ mean("fire engine") + 0.2
