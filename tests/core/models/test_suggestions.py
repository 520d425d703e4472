"""Which models fit which machine, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from tmde_core.models.known import list_known
from tmde_core.models.suggestions import NO_CARD_BACKEND, suggest
from tmde_core.records.models import BaseModel, ServedForm, TrainableForm
from tmde_core.records.suggestions import Suggestion, Suggestions
from tmde_core.resources import Capacity, Cpu, Gpu, Resources

GB, GIB = 10**9, 2**30


def machine(ram: float = 16, cards: Sequence[tuple[float, float]] = (), cores: int = 4, disk: float = 200) -> Resources:
    """A machine with so many GB of free RAM, and cards with so many GiB in all and in use."""
    return Resources(
        cpu=Cpu(count=cores, percent=0, load_average=0),
        ram=Capacity(total_bytes=int(1.3 * ram * GB), available_bytes=int(ram * GB), used_bytes=int(0.3 * ram * GB)),
        disk=Capacity(total_bytes=500 * GB, available_bytes=int(disk * GB), used_bytes=0),
        process_rss_bytes=0,
        gpus=tuple(
            Gpu(name=f"Card {number}", total_bytes=int(total * GIB), used_bytes=int(used * GIB))
            for number, (total, used) in enumerate(cards)
        ),
    )


def named(found: Suggestions, name: str) -> Suggestion:
    return next(one for one in found.items if one.name == name)


def verdicts(found: Suggestions) -> dict[str, tuple[str, str]]:
    return {one.name: (one.answering.verdict, one.training.verdict) for one in found.items}


# ------------------------------------------------------------------------------------------- the machines


@pytest.mark.parametrize(
    ("resources", "answers", "trains"),
    [
        (machine(6), "Qwen3-4B-Instruct-2507", "Qwen3-0.6B"),
        (machine(6, cores=2), "SmolLM3-3B", "Qwen3-0.6B"),
        (machine(22), "Qwen3-4B-Instruct-2507", "Qwen3-1.7B"),
        (machine(16, [(8, 0.3)]), "Qwen3-4B-Instruct-2507", "Qwen3-4B-Instruct-2507"),
        (machine(16, [(16, 0.5)]), "Qwen3-8B", "Qwen3-8B"),
        (machine(32, [(24, 1)]), "Qwen3-8B", "Qwen3-8B"),
    ],
    ids=["no card, 8 GB", "no card, 8 GB, 2 cores", "no card, 24 GB", "8 GB card", "16 GB card", "24 GB card"],
)
def test_the_best_model_is_the_one_for_the_machine(resources: Resources, answers: str, trains: str) -> None:
    found = suggest(resources)
    assert found.best_for_answering is not None
    assert found.best_for_training is not None
    assert (found.best_for_answering.name, found.best_for_training.name) == (answers, trains)


def test_a_card_of_8_gb_answers_and_trains_all_but_the_largest() -> None:
    found = verdicts(suggest(machine(16, [(8, 0.3)])))
    assert {found.pop(name) for name in list(found) if name != "Qwen3-8B"} == {("card", "card")}
    assert found == {"Qwen3-8B": ("ram", "no")}


def test_a_card_of_24_gb_answers_and_trains_everything() -> None:
    assert set(verdicts(suggest(machine(16, [(24, 0.5)]))).values()) == {("card", "card")}


def test_a_small_machine_without_a_card_trains_only_the_smallest() -> None:
    found = suggest(machine(6))
    assert [one.name for one in found.items if one.training.verdict == "cpu"] == ["gemma-3-270m-it", "Qwen3-0.6B"]
    assert named(found, "Qwen3-8B").answering.verdict == "no"


def test_nothing_fits_a_machine_without_memory() -> None:
    found = suggest(machine(0.2))
    assert set(verdicts(found).values()) == {("no", "no")}
    assert not any(one.fits for one in found.items)
    assert found.best_for_answering is None
    assert found.best_for_training is None


def test_the_free_part_of_the_emptiest_card_counts() -> None:
    found = suggest(machine(16, [(24, 23.5), (12, 1)]))
    assert (found.card, found.card_available_bytes) == ("Card 1", 11 * GIB)
    assert suggest(machine(16, [(24, 23.9)])).items[-1].answering.place == "ram"


def test_more_memory_never_fits_less() -> None:
    order = {"no": 0, "tight": 1, "ram": 2, "card": 3, "cpu": 2}
    before = verdicts(suggest(machine(1)))
    for ram in range(2, 64):
        now = verdicts(suggest(machine(ram)))
        for name, pair in now.items():
            assert all(order[new] >= order[old] for new, old in zip(pair, before[name], strict=True)), (name, ram)
        before = now


def test_a_smaller_quantisation_is_taken_where_the_first_is_too_slow() -> None:
    assert named(suggest(machine(16, cores=4)), "Qwen3-1.7B").answering.quantization == "Q8_0"
    slow = named(suggest(machine(16, cores=1)), "Llama-3.2-1B-Instruct")
    assert slow.answering.quantization == "Q4_K_M"
    assert slow.downloads[0].quantization == "Q4_K_M"
    assert slow.pull.endswith("Llama-3.2-1B-Instruct-Q4_K_M.gguf")


def test_what_the_disk_has_no_room_for_is_not_the_best() -> None:
    found = suggest(machine(32, [(24, 1)], disk=3))
    assert found.best_for_answering is not None
    assert found.best_for_answering.name == "Qwen3-4B-Instruct-2507"
    assert found.best_for_training is not None
    assert found.best_for_training.name == "Qwen3-0.6B"


def test_a_model_that_no_memory_holds_is_not_the_one_to_train() -> None:
    found = suggest(machine(0.5, [(4, 0.2)]))
    assert found.best_for_training is not None
    assert named(found, found.best_for_training.name).answering.verdict == "card"


# ---------------------------------------------------------------------------------------- what is here


def test_what_is_here_already_needs_no_command() -> None:
    served = ServedForm(runtime="ollama", model="qwen3:8b")
    weights = TrainableForm(kind="safetensors", path="/models/qwen")
    bases = [
        BaseModel(name="qwen3:8b", served=(served,)),
        BaseModel(name="mine", source="Qwen/Qwen3-8B", trainable=weights),
        BaseModel(name="SmolLM2-135M-Instruct", served=(served,)),
    ]
    found = suggest(machine(32, [(24, 1)], disk=0), bases)
    here = {(one.name, one.answers_here, one.trainable_here) for one in found.items if one.answers_here}
    assert here == {("Qwen3-8B", True, True)}
    for best in (found.best_for_answering, found.best_for_training):
        assert best is not None
        assert (best.name, best.command) == ("Qwen3-8B", "")


def test_every_form_has_a_command_and_the_weights_come_last() -> None:
    for one in suggest(machine()).items:
        assert [form.form for form in one.downloads].count("weights") == 1
        assert one.downloads[-1].form == "weights"
        assert one.pull_weights == f"tmde models pull {one.downloads[-1].source} --weights"
        assert one.downloads[-1].gated == one.gated
        for form in one.downloads[:-1]:
            assert form.command.startswith(f"tmde models pull {form.source}:")


def test_a_file_whose_name_is_not_certain_is_named_by_its_quantisation() -> None:
    smol = named(suggest(machine()), "SmolLM3-3B")
    assert [form.command for form in smol.downloads] == [
        "tmde models pull ggml-org/SmolLM3-3B-GGUF:SmolLM3-Q4_K_M.gguf",
        "tmde models pull ggml-org/SmolLM3-3B-GGUF:Q8_0",
        "tmde models pull HuggingFaceTB/SmolLM3-3B --weights",
    ]


# ----------------------------------------------------------------------------------------------- words


def test_the_sentences_say_what_is_needed_and_what_is_free() -> None:
    large = named(suggest(machine(16, [(16, 0)])), "Qwen3-8B")
    assert large.answering.sentence == (
        "Fits on the card: it needs 8.4 GB of the 17.2 GB that are free. About 30 tokens a second or more."
    )
    assert large.training.sentence == (
        "Trains on the card in 4 bits: an example of 4,096 tokens needs 8.3 GB of the 17.2 GB that are free. "
        "16 examples of 1,000 tokens fit at a time."
    )
    small = named(suggest(machine(8)), "Qwen3-0.6B")
    assert small.answering.sentence == (
        "Fits in memory: it needs 2.7 GB of the 8.0 GB that are free. About 31 tokens a second."
    )
    assert small.training.sentence == (
        "Trains on the processor: it needs 4.7 GB of the 8.0 GB that are free, and about 21 min for 50 examples of "
        "1,000 tokens and three epochs."
    )


def test_a_model_that_only_just_fits_says_what_helps() -> None:
    assert named(suggest(machine(8)), "Qwen3-8B").answering.sentence == (
        "Only just fits in memory: it needs 7.6 GB of the 8.0 GB that are free. End other programs, or use a shorter "
        "context or fewer slots."
    )
    tight = named(suggest(machine(16, [(8, 0.29)])), "Qwen3-8B").training
    assert (tight.longest_example, tight.batch) == (1024, 1)
    assert tight.sentence.endswith("One example of 1,000 tokens fits at a time.")


def test_a_model_that_does_not_fit_says_what_is_lacking() -> None:
    large = named(suggest(machine(3, [(4, 0)])), "Qwen3-8B")
    assert large.answering.sentence == "Does not fit in memory: it needs 7.6 GB, and 3.0 GB are free."
    assert large.training.sentence == (
        "Cannot be trained: on the processor it needs 59.4 GB, more than 85% of the 3.0 GB that are free. On a card it "
        "needs 7.9 GB; 4.3 GB are free."
    )


def test_a_run_that_takes_longer_than_a_night_is_not_offered() -> None:
    slow = named(suggest(machine(100), cores=1), "Qwen3-8B").training
    assert slow.verdict == "no"
    assert slow.sentence == (
        "Training on the processor would take longer than a night: about 20 h for 50 examples of 1,000 tokens and three "
        "epochs."
    )
    assert named(suggest(machine(100), cores=4), "Qwen3-8B").training.verdict == "cpu"


def test_the_remarks_say_what_was_not_measured_and_what_is_not_seen() -> None:
    without, free, busy = suggest(machine()), suggest(machine(16, [(24, 1)])), suggest(machine(16, [(24, 20)]))
    assert "nothing was measured on this machine" in free.remarks[0]
    assert len(free.remarks) == 1
    assert without.remarks[1].startswith("No NVIDIA card was found (nvidia-smi).")
    assert busy.remarks[1].startswith("21.5 GB of the 25.8 GB of the card Card 0 are in use now.")


def test_the_reason_names_the_rule() -> None:
    def reasons(resources: Resources) -> list[str]:
        found = suggest(resources)
        return [best.reason for best in (found.best_for_answering, found.best_for_training) if best is not None]

    assert reasons(machine(16, [(24, 1)])) == [
        "It is the largest without terms to accept that leaves 15% of the card free.",
        "It is the largest without terms to accept that answers well and can be trained on the card, in 4 bits.",
    ]
    assert reasons(machine(22)) == [
        "It is the largest without terms to accept that fits in half of the free memory and writes 5 tokens a second or more.",
        "It is the largest without terms to accept that answers well and can be trained on the processor in a night.",
    ]


def test_the_reason_says_so_if_what_can_be_trained_does_not_answer_well() -> None:
    tight = suggest(machine(0.1, [(1.77, 0)])).best_for_training
    assert tight is not None
    assert tight.reason == (
        "It is the largest without terms to accept that can be trained on the card, in 4 bits, but it answers slowly or only just fits."
    )


def test_every_known_model_is_in_the_list_and_survives_json() -> None:
    found = suggest(machine())
    assert [one.name for one in found.items] == [one.name for one in list_known()]
    assert msgspec.json.decode(msgspec.json.encode(found), type=Suggestions) == found


def test_a_card_that_no_backend_uses_does_not_train() -> None:
    found = suggest(machine(32, [(24, 1)]), trains_on_card=False)
    assert {one.training.verdict for one in found.items} == {"cpu", "no"}
    assert NO_CARD_BACKEND in found.remarks
    assert not any("On a card" in one.training.sentence for one in found.items)
