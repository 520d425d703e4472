"""The page of adapter versions in a real browser, on adapters that were really published and models that follow a script."""

from __future__ import annotations

import gzip
import io
import re
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.core.lora.archive.archives import file_info, packed, peft_files, unpacked, with_member

pytestmark = pytest.mark.slow

METRICS = {"finalTrainLoss": 0.874, "bestValLoss": 1.016, "totalSteps": 120}
TRACES = [f"00000000-0000-0000-0000-{index:012x}" for index in range(1, 14)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(data: Path, scripted_server) -> Iterator[Any]:
    started = scripted_server(data, "tests.tmde_ui.versions.server")
    started.do("traces", number=20)
    yield started
    code, log = started.stop()
    assert code == 0
    assert "Traceback" not in log, log


@pytest.fixture(autouse=True)
def _empty(server) -> None:
    server.do("clear")


def row(page: Page, adapter: str) -> Any:
    return page.get_by_test_id("version").filter(has_text=adapter[:8])


def opened(page: Page, adapter: str) -> Any:
    """The adapter's details."""
    row(page, adapter).get_by_test_id("details").click()
    details = row(page, adapter).get_by_test_id("adapter-details")
    expect(details.get_by_test_id("lineage")).to_be_visible()
    return details


def drop(page: Page, content: bytes, name: str = "adapter.tar.gz") -> None:
    """Let go of a file over the dialog."""
    transfer = page.evaluate_handle(
        """([bytes, name]) => { const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(bytes)], name)); return data; }""",
        [list(content), name],
    )
    if not page.get_by_test_id("import-dialog").is_visible():
        page.get_by_test_id("import").click()
    page.locator("dialog[open] .drop").dispatch_event("drop", {"dataTransfer": transfer})


# ----------------------------------------------------------------------------------------------- list


def test_an_empty_page_says_how_to_fill_it(open_page):
    page = open_page("/finetune/versions")
    expect(page.get_by_test_id("no-adapters")).to_contain_text("Train an adapter, or import one")
    expect(page.get_by_test_id("now-name")).to_have_text("The base model")
    expect(page.get_by_test_id("rollback")).to_be_hidden()
    expect(page.get_by_test_id("deactivate")).to_be_hidden()
    expect(page.get_by_test_id("too-few")).to_contain_text("needs two valid adapters")
    expect(page.get_by_test_id("audit-trail")).to_contain_text("No events yet")


def test_adapters_are_listed_with_gate_metrics_tags_and_size_newest_first(open_page, server):
    old = server.do("publish", age=60, gate="proven", tags=["stable", "v1.0"], metrics=METRICS, traces_used=13)
    new = server.do("publish", gate="held-back")
    page = open_page("/finetune/versions")
    rows = page.get_by_test_id("adapter-list").get_by_test_id("version")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text(new[:8])
    expect(rows.first.get_by_test_id("gate")).to_have_text("held back")
    expect(row(page, old).get_by_test_id("gate")).to_have_text("proven")
    expect(row(page, old).get_by_test_id("tag")).to_have_text(["stable", "v1.0"])
    expect(row(page, old).get_by_test_id("adapter-losses")).to_have_text("loss 0.874, held out 1.016")
    expect(row(page, old).get_by_test_id("adapter-size")).to_have_text(re.compile(r"^\d+ kB$"))
    expect(row(page, old)).to_contain_text("13 traces")
    expect(page.get_by_test_id("active-badge")).to_have_count(0)
    expect(page.get_by_test_id("storage")).to_have_text(re.compile(r"2 adapters · \d+ kB on the disk · .+ free"))


def test_what_is_invalid_is_listed_with_its_reason_and_cannot_be_activated(open_page, server, data):
    adapter = server.do("publish")
    (data / "lora-adapters" / adapter / "adapter_config.json").unlink()
    page = open_page("/finetune/versions")
    expect(row(page, adapter).get_by_test_id("invalid")).to_be_visible()
    expect(row(page, adapter).get_by_test_id("invalid-reason")).to_contain_text("adapter_config.json is missing")
    expect(row(page, adapter).get_by_test_id("activate")).to_be_hidden()
    expect(page.get_by_test_id("storage")).to_contain_text("1 adapter, 1 of them invalid")
    opened(page, adapter).get_by_test_id("delete").click()
    page.get_by_test_id("confirm-delete").click()
    expect(page.get_by_test_id("version")).to_have_count(0)


def test_many_adapters_are_paged_and_a_link_finds_one_on_a_later_page(open_page, server):
    made = [server.do("publish", age=index, served=False) for index in range(23)]
    page = open_page("/finetune/versions")
    expect(page.get_by_test_id("version")).to_have_count(20)
    page.get_by_test_id("older").click()
    expect(page.get_by_test_id("range")).to_have_text("21–23 of 23")
    expect(page.get_by_test_id("version")).to_have_count(3)
    page.get_by_test_id("newer").click()
    expect(page.get_by_test_id("version").first).to_contain_text(made[0][:8])
    page.goto(f"{server.url}/finetune/versions?adapter={made[22]}")
    expect(row(page, made[22]).get_by_test_id("adapter-details")).to_be_visible()


def test_details_tell_the_lineage_down_to_the_debates(open_page, server):
    lineage = {"runId": "7d9f2f60-1111-4222-8333-444455556666", "traceIds": TRACES}
    adapter = server.do("publish", metrics=METRICS, lineage=lineage, traces_used=13, dataset_sha256="ab" * 32)
    page = open_page("/finetune/versions")
    details = opened(page, adapter)
    shown = details.get_by_test_id("lineage")
    expect(shown).to_contain_text("training run 7d9f2f60 (not on this machine)")
    expect(shown.get_by_role("link", name="Question 0: what is 0 times 0?")).to_have_attribute(
        "href", f"/traces/{TRACES[0]}"
    )
    expect(shown).to_contain_text("and 5 more")
    expect(shown).to_contain_text("ab" * 32)
    expect(details.get_by_test_id("adapter-metrics")).to_contain_text("120")
    page.reload()
    expect(row(page, adapter).get_by_test_id("adapter-details")).to_be_visible()
    row(page, adapter).get_by_test_id("details").click()
    page.wait_for_url(re.compile(r"/versions$"))


def test_a_link_to_an_adapter_that_is_gone_says_so(open_page):
    page = open_page("/finetune/versions?adapter=7d9f2f60-1111-4222-8333-444455556666")
    expect(page.get_by_test_id("missing")).to_contain_text(
        "Adapter 7d9f2f60-1111-4222-8333-444455556666 no longer exists"
    )


def test_nonsense_in_the_address_is_passed_over(open_page):
    page = open_page("/finetune/versions?adapter=../../etc&a=1&b=%00&ask=zzz")
    expect(page.get_by_test_id("now")).to_be_visible()
    expect(page.get_by_test_id("missing")).to_be_hidden()


# ------------------------------------------------------------------------------------------- switching


def test_activating_makes_it_unmistakable_here_and_in_the_header(open_page, server):
    a, b = server.do("publish", age=9), server.do("publish")
    page = open_page("/finetune/versions")
    row(page, a).get_by_test_id("activate").click()
    expect(row(page, a).get_by_test_id("active-badge")).to_have_text("active")
    expect(page.get_by_test_id("now-name")).to_have_text(re.compile(rf"^Adapter .*{a[:8]}$"))
    expect(page.get_by_test_id("version").filter(has=page.get_by_test_id("active-badge"))).to_have_count(1)
    expect(page.locator("header").get_by_test_id("adapter")).to_have_text(re.compile(rf"^Adapter .*{a[:8]}$"))
    expect(row(page, a).get_by_test_id("activate")).to_be_hidden()
    assert server.do("active") == a
    row(page, b).get_by_test_id("activate").click()
    expect(row(page, b).get_by_test_id("active-badge")).to_be_visible()
    expect(page.get_by_test_id("active-badge")).to_have_count(1)
    page.reload()
    expect(row(page, b).get_by_test_id("active-badge")).to_be_visible()


def test_rolling_back_is_one_click_that_says_to_what(open_page, server):
    a, b, c = (server.do("publish", age=age) for age in (9, 8, 7))
    for one in (a, b, c):
        server.do("activate", id=one)
    page = open_page("/finetune/versions")
    back = page.get_by_test_id("rollback")
    for target in (b, a):
        expect(back).to_have_text(re.compile(rf"^Roll back to adapter .*{target[:8]}$"))
        back.click()
        expect(row(page, target).get_by_test_id("active-badge")).to_be_visible()
        assert server.do("active") == target
    expect(back).to_have_text("Roll back to the base model")
    back.click()
    expect(page.get_by_test_id("now-name")).to_have_text("The base model")
    expect(back).to_be_hidden()
    expect(page.get_by_test_id("active-badge")).to_have_count(0)


def test_a_rollback_never_goes_elsewhere_than_its_button_said(open_page, server):
    a, b, c = (server.do("publish", age=age) for age in (9, 8, 7))
    for one in (a, b):
        server.do("activate", id=one)
    server.do("look", every=3600)
    try:
        page = open_page("/finetune/versions")
        expect(page.get_by_test_id("rollback")).to_have_text(re.compile(rf"^Roll back to adapter .*{a[:8]}$"))
        server.do("activate", id=c)
        page.get_by_test_id("rollback").click()
        expect(page.get_by_test_id("now-problem")).to_contain_text(
            re.compile(rf"The target is now adapter .*{b[:8]}\. Nothing was switched")
        )
        expect(page.get_by_test_id("rollback")).to_have_text(re.compile(rf"^Roll back to adapter .*{b[:8]}$"))
        assert server.do("active") == c
    finally:
        server.do("look")


def test_deactivating_lets_the_base_model_answer(open_page, server):
    adapter = server.do("publish")
    server.do("activate", id=adapter)
    page = open_page("/finetune/versions")
    page.get_by_test_id("deactivate").click()
    expect(page.get_by_test_id("now-name")).to_have_text("The base model")
    expect(page.get_by_test_id("rollback")).to_have_text(re.compile(rf"^Roll back to adapter .*{adapter[:8]}$"))
    assert server.do("active") is None


def test_a_switch_made_elsewhere_shows_up_in_every_open_tab(open_page, server):
    a, b = server.do("publish", age=9), server.do("publish")
    first, second = open_page("/finetune/versions"), open_page("/finetune/versions")
    server.do("activate", id=a)
    for tab in (first, second):
        expect(row(tab, a).get_by_test_id("active-badge")).to_be_visible()
    row(first, b).get_by_test_id("activate").click()
    expect(row(second, b).get_by_test_id("active-badge")).to_be_visible()
    expect(second.get_by_test_id("active-badge")).to_have_count(1)
    expect(second.get_by_test_id("event").first).to_contain_text(re.compile(rf"Activated adapter .*{b[:8]}"))
    new = server.do("publish")
    expect(row(second, new)).to_be_visible()


def test_what_a_person_is_typing_stays_when_something_is_switched_elsewhere(open_page, server):
    a, b = server.do("publish", age=9), server.do("publish")
    page = open_page("/finetune/versions")
    details = opened(page, a)
    details.get_by_test_id("new-tag").click()
    page.keyboard.type("half-ty")
    server.do("activate", id=a)
    expect(row(page, a).get_by_test_id("active-badge")).to_be_visible()
    server.do("publish")
    expect(page.get_by_test_id("version")).to_have_count(3)
    expect(details.get_by_test_id("new-tag")).to_have_value("half-ty")
    expect(details.get_by_test_id("new-tag")).to_be_focused()
    expect(row(page, b).get_by_test_id("adapter-details")).to_have_count(0)


def test_a_person_can_say_that_the_adapters_base_and_the_served_model_are_the_same(open_page, server):
    adapter = server.do("publish", base_model="somebody/the-same-under-another-name")
    page = open_page("/finetune/versions")
    line = row(page, adapter)
    line.get_by_test_id("activate").click()
    expect(line.get_by_test_id("row-problem")).to_contain_text("was trained on 'somebody/the-same-under-another-name'")
    line.get_by_test_id("same-base").click()
    expect(page.get_by_test_id("same-dialog")).to_contain_text("If it was trained on another model")
    page.get_by_test_id("confirm-same").click()
    expect(line.get_by_test_id("active-badge")).to_be_visible()
    expect(line.get_by_test_id("same-base")).to_be_hidden()
    assert server.do("active") == adapter


def test_an_adapter_that_fails_its_probe_is_refused_with_the_reason_and_nothing_changes(open_page, server):
    a, broken = server.do("publish", age=9), server.do("publish")
    server.do("activate", id=a)
    server.do("break", id=broken)
    page = open_page("/finetune/versions")
    row(page, broken).get_by_test_id("activate").click()
    expect(row(page, broken).get_by_test_id("row-problem")).to_contain_text("one thing over and over")
    expect(row(page, a).get_by_test_id("active-badge")).to_be_visible()
    expect(page.get_by_test_id("event").first).to_contain_text(
        re.compile(rf"Could not activate adapter .*{broken[:8]}")
    )
    expect(page.get_by_test_id("event").first).to_contain_text("failed")


def test_a_held_back_adapter_answers_only_after_a_confirmation_that_is_recorded(open_page, server):
    adapter = server.do("publish", gate="held-back")
    page = open_page("/finetune/versions")
    row(page, adapter).get_by_test_id("activate").click()
    expect(page.get_by_test_id("force-dialog")).to_contain_text("recorded")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_test_id("force-dialog")).to_have_count(0)
    assert server.do("events") == []
    row(page, adapter).get_by_test_id("activate").click()
    page.get_by_test_id("confirm-force").click()
    expect(row(page, adapter).get_by_test_id("active-badge")).to_be_visible()
    expect(row(page, adapter).get_by_test_id("gate")).to_have_text("forced")
    expect(page.get_by_test_id("force-dialog")).to_have_count(0)
    expect(page.get_by_test_id("event").first).to_contain_text(
        "Activated by force although the benchmark holds it back."
    )


def test_the_gate_is_asked_at_the_moment_of_the_click(open_page, server):
    adapter = server.do("publish")
    page = open_page("/finetune/versions")
    expect(row(page, adapter).get_by_test_id("gate")).to_have_text("candidate")
    server.do("gate", id=adapter, gate="held-back")
    row(page, adapter).get_by_test_id("activate").click()
    expect(page.get_by_test_id("force-dialog")).to_be_visible()


# ---------------------------------------------------------------------------------- tags and deletion


def test_tags_are_put_on_and_taken_off_and_nonsense_is_refused_in_place(open_page, server):
    adapter = server.do("publish")
    page = open_page("/finetune/versions")
    details = opened(page, adapter)
    details.get_by_test_id("new-tag").fill("v1.0")
    page.keyboard.press("Enter")
    expect(row(page, adapter).get_by_test_id("tag")).to_have_text(["v1.0"])
    expect(details.get_by_test_id("new-tag")).to_have_value("")
    details.get_by_test_id("new-tag").fill("no tag!")
    details.get_by_test_id("add-tag").click()
    expect(details.get_by_test_id("tag-problem")).to_contain_text("is no tag")
    details.get_by_test_id("untag").click()
    expect(row(page, adapter).get_by_test_id("tag")).to_have_count(0)


def test_an_adapter_has_a_name_that_a_person_can_change(open_page, server):
    adapter = server.do("publish", traces_used=13)
    page = open_page("/finetune/versions")
    name = row(page, adapter).get_by_test_id("adapter-name")
    expect(name).to_contain_text("· 13 traces")
    details = opened(page, adapter)
    details.get_by_test_id("new-name").fill("Times tables, first try")
    page.keyboard.press("Enter")
    expect(name).to_have_text("Times tables, first try")
    details.get_by_test_id("new-name").fill(" ")
    details.get_by_test_id("rename").click()
    expect(details.get_by_test_id("name-problem")).to_contain_text("1 to 80 characters")
    expect(name).to_have_text("Times tables, first try")


def test_stable_and_active_adapters_cannot_be_deleted_and_say_why(open_page, server):
    stable, active = server.do("publish", age=9, tags=["stable"]), server.do("publish")
    server.do("activate", id=active)
    page = open_page("/finetune/versions")
    details = opened(page, stable)
    expect(details.get_by_test_id("delete")).to_be_disabled()
    expect(details.get_by_test_id("kept")).to_contain_text("stable protects it")
    details.get_by_test_id("untag").click()
    expect(details.get_by_test_id("delete")).to_be_enabled()
    expect(opened(page, active).get_by_test_id("kept")).to_contain_text("active adapter cannot be deleted")


def test_deleting_asks_once_and_leaves_its_history(open_page, server, data):
    adapter, other = server.do("publish"), server.do("publish", age=9)
    page = open_page("/finetune/versions")
    opened(page, adapter).get_by_test_id("delete").click()
    dialog = page.get_by_test_id("delete-dialog")
    expect(dialog).to_contain_text("cannot be undone")
    page.get_by_role("button", name="Keep it").click()
    expect(dialog).to_have_count(0)
    row(page, adapter).get_by_test_id("delete").click()
    page.get_by_test_id("confirm-delete").click()
    expect(page.get_by_test_id("version")).to_have_count(1)
    expect(row(page, other)).to_be_visible()
    expect(page.get_by_test_id("event").first).to_contain_text(re.compile(rf"Deleted adapter .*{adapter[:8]}"))
    assert not (data / "lora-adapters" / adapter).exists()


# ----------------------------------------------------------------------------------- verify, carry away


def test_verifying_reads_every_byte_and_says_what_has_changed(open_page, server):
    adapter = server.do("publish")
    page = open_page("/finetune/versions")
    details = opened(page, adapter)
    details.get_by_test_id("verify").click()
    expect(details.get_by_test_id("verified")).to_contain_text("The files are unchanged since publication: 4 files")
    server.do("spoil", id=adapter)
    details.get_by_test_id("verify").click()
    expect(details.get_by_test_id("verified")).to_contain_text("adapter_model.safetensors has changed")
    expect(row(page, adapter).get_by_test_id("invalid")).to_be_visible()
    expect(row(page, adapter).get_by_test_id("activate")).to_be_hidden()


def test_an_adapter_is_exported_in_three_forms_and_the_pickle_is_called_one(open_page, server, data):
    adapter, unserved = server.do("publish"), server.do("publish", served=False)
    page = open_page("/finetune/versions")
    details = opened(page, unserved)
    details.get_by_test_id("export").locator("summary").click()
    expect(details.get_by_test_id("export-peft")).to_be_visible()
    expect(details.get_by_test_id("export-gguf")).to_be_hidden()
    details = opened(page, adapter)
    details.get_by_test_id("export").locator("summary").click()
    expect(details.get_by_test_id("export")).to_contain_text("a pickle: loading it runs the code in it")
    names = {}
    for form in ("peft", "peft-bin", "gguf"):
        with page.expect_download() as download:
            details.get_by_test_id(f"export-{form}").click()
        names[form] = (download.value.suggested_filename, download.value.path().read_bytes())
    assert "adapter_model.bin" in unpacked(names["peft-bin"][1])
    assert "adapter_model.bin" not in unpacked(names["peft"][1])
    assert names["gguf"] == (
        f"tmde-adapter-{adapter[:8]}.gguf",
        (data / "lora-adapters" / adapter / "adapter.gguf").read_bytes(),
    )


def test_a_merged_model_is_made_on_the_page_and_downloaded_and_a_poor_one_only_if_a_person_insists(open_page, server):
    quality = {
        "asked": 24, "rightApart": 22, "rightMerged": 21, "positions": 96, "sameToken": 0.97, "difference": 0.1, "effect": 0.5,
    }  # fmt: skip
    result = {
        "baseFile": "base.gguf",
        "sizeBytes": 11,
        "types": {"Q8_0": 3},
        "notes": ["Q4_K became Q8_0."],
        "quality": quality,
    }
    server.do("merging", result=result)
    adapter = server.do("publish")
    details = opened(open_page("/finetune/versions"), adapter)
    page = details.page
    details.get_by_test_id("export").locator("summary").click()
    details.get_by_test_id("merge").click()
    expect(details.get_by_test_id("merge-result")).to_contain_text("21 of 24 simple questions right")
    expect(details.get_by_test_id("merge-result")).to_contain_text("Q4_K became Q8_0.")
    with page.expect_download() as download:
        details.get_by_test_id("merge-download").click()
    assert download.value.suggested_filename == f"scripted-1-tmde-{adapter[:8]}.Q8_0.tar"
    assert b"GGUF merged" in download.value.path().read_bytes()

    server.do("merging", result=result | {"quality": quality | {"flaws": ["It lost much of the adapter."]}})
    details.get_by_test_id("merge-quantization").select_option("base")
    details.get_by_test_id("merge").click()
    expect(details.get_by_test_id("merge-refused")).to_contain_text(
        "It lost much of the adapter. Export it as Q8_0 instead"
    )
    details.get_by_test_id("merge-anyway").click()
    expect(details.get_by_test_id("merge-download")).to_contain_text(f"scripted-1-tmde-{adapter[:8]}.gguf")


def test_what_was_exported_and_deleted_comes_back_by_drag_and_drop(open_page, server):
    adapter = server.do("publish", tags=["v1.0"], metrics=METRICS)
    page = open_page("/finetune/versions")
    details = opened(page, adapter)
    details.get_by_test_id("export").locator("summary").click()
    with page.expect_download() as download:
        details.get_by_test_id("export-peft").click()
    archive = download.value.path().read_bytes()
    server.do("clear")
    expect(page.get_by_test_id("no-adapters")).to_be_visible()
    drop(page, archive)
    expect(page.get_by_test_id("import-report")).to_contain_text(re.compile(rf"Imported as adapter .*{adapter[:8]}"))
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("import-dialog")).to_be_hidden()
    expect(row(page, adapter).get_by_test_id("adapter-losses")).to_contain_text("loss 0.874")
    expect(row(page, adapter).get_by_test_id("adapter-details")).to_be_visible()
    expect(page.get_by_test_id("event").first).to_contain_text("from an archive of TMDE")
    expect(page.get_by_test_id("event").first).to_contain_text("by you")
    row(page, adapter).get_by_test_id("activate").click()
    expect(row(page, adapter).get_by_test_id("active-badge")).to_be_visible()


def test_the_same_adapter_again_is_told_and_a_copy_is_marked(open_page, server):
    page = open_page("/finetune/versions", refusals=(409,))
    drop(page, packed(peft_files()))
    report = page.get_by_test_id("import-report")
    expect(report).to_contain_text("Imported as adapter")
    page.keyboard.press("Escape")
    drop(page, packed(peft_files()))
    expect(page.get_by_test_id("import-twin")).to_contain_text("This adapter is here already as adapter")
    expect(page.get_by_test_id("version")).to_have_count(1)
    page.get_by_test_id("import-copy").click()
    expect(report).to_contain_text("It is a copy of adapter")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("version")).to_have_count(2)
    expect(page.get_by_test_id("copy")).to_have_count(1)
    drop(page, packed(peft_files()))
    page.get_by_test_id("open-twin").click()
    expect(page.get_by_test_id("import-dialog")).to_be_hidden()
    expect(page.get_by_test_id("version")).to_have_count(2)


def test_a_damaged_active_adapter_is_nowhere_shown_as_answering(open_page, server, data):
    adapter = server.do("publish", metrics=METRICS)
    page = open_page("/finetune/versions")
    row(page, adapter).get_by_test_id("activate").click()
    expect(page.get_by_test_id("adapter")).to_contain_text(adapter[:8])
    (data / "lora-adapters" / adapter / "adapter.gguf").unlink()
    expect(page.get_by_test_id("adapter")).to_contain_text("Base model, adapter damaged")
    expect(page.get_by_test_id("now-name")).to_have_text("The base model")
    expect(page.get_by_test_id("now")).to_contain_text("adapter.gguf is missing")
    expect(row(page, adapter).get_by_test_id("active-badge")).to_have_text("not answering")
    expect(row(page, adapter).get_by_test_id("adapter-losses")).to_have_text("loss 0.874, held out 1.016")
    page.get_by_test_id("rollback").click()
    expect(page.get_by_test_id("adapter")).to_have_text("Base model")


def test_an_active_adapter_that_the_proposers_runtime_cannot_serve_is_nowhere_shown_as_answering(open_page, server):
    adapter = server.do("publish", name="Fractions")
    server.do("activate", id=adapter)
    server.do("serve-adapters", on=False)
    page = open_page("/finetune/versions")
    badge = page.get_by_test_id("adapter")
    expect(badge).to_have_text("Base model")
    why = re.compile(
        r"Fractions .* is active\. The Proposer's runtime 'scripted' cannot serve adapters, so the base model"
    )
    expect(badge).to_have_attribute("title", why)
    expect(page.get_by_test_id("now-name")).to_have_text("The base model")
    expect(page.get_by_test_id("now")).to_contain_text(why)
    expect(row(page, adapter).get_by_test_id("active-badge")).to_have_text("not answering")
    server.do("serve-adapters", on=True)
    expect(page.get_by_test_id("now-name")).to_contain_text("Fractions")
    expect(row(page, adapter).get_by_test_id("active-badge")).to_have_text("active")


def test_a_refused_archive_tells_every_reason_and_leaves_nothing(open_page, server, data):
    page = open_page("/finetune/versions", refusals=(422,))
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, content in peft_files(peft_type="LOHA").items():
            archive.addfile(file_info(f"adapter/{name}", len(content)), io.BytesIO(content))
        for name in ("adapter/../../escaped", "adapter/pytorch_model.bin"):
            archive.addfile(file_info(name, 1), io.BytesIO(b"x"))
    drop(page, gzip.compress(output.getvalue(), 1))
    reasons = page.get_by_test_id("import-reasons")
    for word in ("..", "pytorch_model.bin", "LOHA"):
        expect(reasons).to_contain_text(word)
    expect(page.get_by_test_id("import-report")).to_contain_text("refused. Nothing was imported")
    assert [path.name for path in (data / "lora-adapters").iterdir() if path.is_dir()] == []
    expect(page.get_by_test_id("no-adapters")).to_be_visible()


def test_what_is_no_archive_or_names_files_oddly_is_refused_in_a_sentence(open_page):
    page = open_page("/finetune/versions", refusals=(400, 422))
    report = page.get_by_test_id("import-report").locator("p")
    for content, words in (
        (b"not an archive", "gzip"),
        (with_member(file_info("a\x1b[31m<img src=x>")), "refused. Nothing was imported"),
    ):
        drop(page, content)
        expect(report).to_contain_text(words)
        expect(report).to_have_text(re.compile(r"\.$"))
    assert page.locator("dialog img").count() == 0


def test_a_file_can_be_chosen_instead_of_dropped(open_page, tmp_path):
    file = tmp_path / "adapter.tgz"
    file.write_bytes(packed(peft_files()))
    page = open_page("/finetune/versions")
    page.get_by_test_id("import").click()
    page.get_by_test_id("import-file").set_input_files(str(file))
    expect(page.get_by_test_id("import-report")).to_contain_text("Imported as adapter")
    expect(page.get_by_test_id("version")).to_have_count(1)


def test_an_archive_of_a_foreign_origin_is_not_even_looked_at(open_page, server):
    page = open_page("/finetune/versions")
    answer = page.request.post(
        f"{server.url}/finetune/versions/import",
        data=packed(peft_files()),
        headers={"Origin": "http://elsewhere.invalid"},
    )
    assert answer.status == 403
    expect(page.get_by_test_id("no-adapters")).to_be_visible()


def test_an_upload_that_breaks_off_leaves_nothing_and_is_no_defect(open_page, server, data):
    page = open_page("/finetune/versions")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /finetune/versions/import HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 999999\r\n\r\n"
        connection.sendall(head.encode() + packed(peft_files()))
    drop(page, packed(peft_files()))
    expect(page.get_by_test_id("version")).to_have_count(1)
    assert len([path for path in (data / "lora-adapters").iterdir() if path.is_dir()]) == 1


# --------------------------------------------------------------------------------- compare side by side


def two(server) -> tuple[str, str]:
    a = server.do(
        "publish",
        age=9,
        metrics={"finalTrainLoss": 1.1, "bestValLoss": 1.2},
        lineage={"traceIds": TRACES[:8]},
        traces_used=8,
    )
    b = server.do(
        "publish",
        metrics=METRICS,
        lineage={"traceIds": TRACES[5:]},
        traces_used=8,
        training={"config": {"epochs": 5, "loraRank": 16}},
    )
    return a, b


def test_two_are_compared_by_metrics_configuration_data_and_benchmark(open_page, server):
    a, b = two(server)
    server.do("benchmarked")
    page = open_page("/finetune/versions")
    page.get_by_test_id("compare-a").select_option(a)
    page.get_by_test_id("compare-b").select_option(b)
    page.get_by_test_id("compare-them").click()
    metrics = page.get_by_test_id("compare-metrics").locator("tr").filter(has_text="Final loss")
    expect(metrics.locator("td")).to_have_text(["1.1", "0.874", "−0.226"])
    epochs = page.get_by_test_id("compare-configuration").locator("tr").filter(has_text="Epochs")
    expect(epochs.locator("td")).to_have_text(["3", "5", "+2"])
    expect(page.get_by_test_id("compare-configuration")).not_to_contain_text("LoRA rank")
    expect(page.get_by_test_id("compare-data")).to_contain_text("3 traces in both, 5 only in B, 5 only in A.")
    page.get_by_test_id("compare-data").get_by_text("Only in B (5)").click()
    expect(page.get_by_test_id("compare-data").get_by_role("link", name="Question 12")).to_be_visible()
    benchmark = page.get_by_test_id("compare-benchmark")
    expect(benchmark).to_contain_text("B is better")
    expect(benchmark).to_contain_text("quality 6.0 → 7.2, +1.2 (95 %: +0.5 to +2.0, p 0.010) over 10 questions")
    expect(benchmark).to_contain_text("science: quality 5.0 → 4.5, −0.5")
    page.reload()
    expect(page.get_by_test_id("compare-metrics")).to_contain_text("−0.226")
    page.get_by_test_id("compare-b").select_option(a)
    page.get_by_test_id("compare-them").click()
    expect(page.get_by_test_id("compare-problem")).to_have_text("Choose two different adapters.")


def test_a_comparison_disappears_with_its_adapter(open_page, server):
    a, b = two(server)
    server.do("publish", age=30)
    page = open_page(f"/finetune/versions?a={a}&b={b}")
    expect(page.get_by_test_id("compare-metrics")).to_be_visible()
    server.do("delete", id=b)
    expect(page.get_by_test_id("comparison-gone")).to_be_visible()
    expect(page.get_by_test_id("compare-metrics")).to_have_count(0)


def test_an_opened_adapter_is_compared_with_what_is_chosen(open_page, server):
    a, b = two(server)
    server.do("activate", id=a)
    page = open_page("/finetune/versions")
    opened(page, b).get_by_test_id("compare-this").click()
    expect(page.get_by_test_id("comparison")).to_contain_text(re.compile(rf"B: .*{b[:8]}"))
    expect(page.get_by_test_id("comparison")).to_contain_text(re.compile(rf"A: .*{a[:8]}"))


def test_base_and_both_adapters_answer_one_question_side_by_side_as_they_write(open_page, server):
    a, b = two(server)
    server.do("close")
    page = open_page("/finetune/versions")
    expect(page.get_by_test_id("whom")).to_contain_text("the base model, adapter")
    page.get_by_test_id("ask-question").fill("A slow question?")
    page.keyboard.press("Control+Enter")
    columns = page.get_by_test_id("answer-of")
    expect(columns).to_have_count(3)
    for column in range(3):
        expect(columns.nth(column)).to_contain_text("writes")
    expect(columns.nth(0)).to_contain_text("I am the base model,")
    expect(columns.nth(0)).not_to_contain_text("word by word")
    page.reload()
    expect(page.get_by_test_id("asked")).to_have_text("A slow question?")
    expect(columns.nth(0)).to_contain_text("I am the base model,")
    server.do("open")
    for name in ("the base model", f"adapter {a[:8]}", f"adapter {b[:8]}"):
        column = columns.filter(has_text=f"I am {name}")
        expect(column).to_contain_text("word by word")
        expect(column.locator(".note")).to_have_text(re.compile(r"\d m?s · 1[45] tokens"))
        expect(column.locator("strong")).to_have_text("my")
    expect(page.get_by_test_id("ask")).to_be_enabled()


def test_thoughts_and_cut_answers_are_told_side_by_side(open_page, server):
    two(server)
    server.do("close")
    page = open_page("/finetune/versions")
    page.get_by_test_id("ask-question").fill("A slow question for thinking models?")
    page.keyboard.press("Control+Enter")
    columns = page.get_by_test_id("answer-of")
    expect(columns.nth(2).locator(".note")).to_have_text("thinks")
    expect(columns.nth(2).get_by_test_id("thought")).to_have_text(re.compile("Thinking … *Let me think"))
    server.do("open")
    for column in columns.all():
        expect(column.locator(".prose")).to_contain_text("I am")
        expect(column.locator(".prose")).not_to_contain_text("Let me think")
        expect(column.locator("details .stream")).to_be_hidden()
        expect(column.get_by_test_id("cut")).to_contain_text("token limit")
    spoken = page.get_by_test_id("compare").get_by_role("status").filter(has_text="answered")
    expect(spoken).to_have_text("All have answered.")
    columns.nth(0).get_by_text("Thought", exact=True).click()
    expect(columns.nth(0).locator("details .stream")).to_have_text("Let me think about whom they ask.")


def test_what_models_say_never_becomes_a_part_of_the_page(open_page, server):
    two(server)
    page = open_page("/finetune/versions")
    page.get_by_test_id("ask-question").fill("hostile, please")
    page.get_by_test_id("ask").click()
    columns = page.get_by_test_id("answer-of")
    expect(columns).to_have_count(3)
    for column in range(3):
        expect(columns.nth(column)).to_contain_text("tokens")
    assert page.locator("main img, main script").count() == 0


def test_an_empty_question_is_refused_in_place(open_page, server):
    two(server)
    page = open_page("/finetune/versions")
    page.get_by_test_id("ask").click()
    expect(page.get_by_test_id("ask-problem")).to_have_text(re.compile("question", re.IGNORECASE))
    expect(page.get_by_test_id("ask")).to_be_enabled()


# ------------------------------------------------------------------------------------------ audit trail


def test_the_trail_tells_who_did_what_and_what_answered_at_a_moment(open_page, server):
    a = server.do("publish")
    server.do("activate", id=a)
    page = open_page("/finetune/versions")
    page.get_by_test_id("rollback").click()
    events = page.get_by_test_id("event")
    expect(events).to_have_count(2)
    expect(events.first).to_contain_text("Rolled back to the base model")
    expect(events.last).to_contain_text(re.compile(rf"Activated adapter .*{a[:8]}"))
    expect(events.last).to_contain_text("before: the base model")
    expect(events.last).to_contain_text("through the API")
    asking = page.get_by_test_id("live-at")
    asking.get_by_label("Active version at").fill("2020-01-01T12:00:00")
    asking.get_by_test_id("tell").click()
    expect(page.get_by_test_id("live-at-said")).to_contain_text("The base model: since the beginning, until 20")
    asking.get_by_label("Active version at").fill("2199-01-01T12:00:00")
    asking.get_by_test_id("tell").click()
    expect(page.get_by_test_id("live-at-said")).to_have_text("This time is in the future.")
    asking.get_by_label("Active version at").fill("")
    asking.get_by_test_id("tell").click()
    expect(page.get_by_test_id("live-at-said")).to_contain_text("Enter a date")


def test_a_long_trail_is_paged(open_page, server):
    adapter = server.do("publish")
    for _ in range(6):
        server.do("activate", id=adapter)
        server.do("clear-active")
    page = open_page("/finetune/versions")
    expect(page.get_by_test_id("event")).to_have_count(10)
    page.get_by_test_id("older-events").click()
    expect(page.get_by_test_id("event")).to_have_count(2)
    page.get_by_test_id("newer-events").click()
    expect(page.get_by_test_id("event")).to_have_count(10)


# --------------------------------------------------------------------------------------- every page's


def test_nothing_sticks_out_and_everything_has_a_name_with_all_of_it_open(open_page, server):
    sticking_out = """[...document.querySelectorAll('.card, .details, dialog[open], .exports')].flatMap(card => [...card.querySelectorAll('*')]
        .filter(e => !e.closest('.scroll, .visually-hidden, svg') && e.getBoundingClientRect().right > card.getBoundingClientRect().right + 1)
        .map(e => e.outerHTML.slice(0, 200)))"""
    nameless = """[...document.querySelectorAll('button, a[href], input, select, textarea, dialog, summary')].filter(e =>
        !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim() || e.title)).map(e => e.outerHTML)"""
    a, b = two(server)
    server.do("publish", age=5, tags=["x" * 40, "y" * 40], base_model="z" * 200)
    server.do("activate", id=a)
    page = open_page("/finetune/versions")
    details = opened(page, b)
    for summary in details.locator("summary").all():
        summary.click()
    page.get_by_test_id("compare-them").click()
    expect(page.get_by_test_id("compare-metrics")).to_be_visible()
    page.get_by_test_id("ask-question").fill("Which?")
    page.get_by_test_id("ask").click()
    expect(page.get_by_test_id("answer-of").last).to_contain_text("tokens")
    assert page.evaluate(nameless) == []
    for width in (1280, 900, 380, 320):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width
        assert page.evaluate(sticking_out) == [], width


def test_the_keyboard_alone_activates_and_rolls_back(open_page, server):
    adapter = server.do("publish")
    page = open_page("/finetune/versions")
    page.get_by_test_id("import").focus()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.testid") == "activate":
            break
    page.keyboard.press("Enter")
    expect(row(page, adapter).get_by_test_id("active-badge")).to_be_visible()
    for _ in range(20):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.dataset.testid") == "rollback":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("now-name")).to_have_text("The base model")


def test_the_training_page_and_this_one_lead_to_each_other(open_page):
    page = open_page("/finetune")
    page.get_by_role("navigation", name="Fine-tuning").get_by_role("link", name="Adapter versions").click()
    expect(page.locator("h1")).to_have_text("Adapter versions")
    page.get_by_role("navigation", name="Fine-tuning").get_by_role("link", name="Training").click()
    expect(page.locator("h1")).to_have_text("Fine-tuning")


def test_an_open_page_finds_the_truth_again_after_a_restart_of_the_server(browser, tmp_path, scripted_server):
    first = scripted_server(tmp_path, "tests.tmde_ui.versions.server")
    a, b = first.do("publish", age=9), first.do("publish")
    first.do("activate", id=a)
    page = browser.new_page()
    page.goto(f"{first.url}/finetune/versions")
    expect(row(page, a).get_by_test_id("active-badge")).to_be_visible()
    first.kill()
    second = scripted_server(tmp_path, "tests.tmde_ui.versions.server", first.url.rsplit(":", 1)[1])
    second.do("activate", id=b)
    try:
        expect(row(page, b).get_by_test_id("active-badge")).to_be_visible(timeout=60_000)
        expect(page.get_by_test_id("active-badge")).to_have_count(1)
    finally:
        page.close()
        assert second.stop()[0] == 0
