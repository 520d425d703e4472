"""The data models of the requirements, field for field: in the OpenAPI document, and in the answers of a real run."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from tests.api.test_api_lora import published

TEXT, NUMBER, WHOLE, YES_NO = "string", "number", "integer", "boolean"
LIST, TABLE = "array", "object"

MODELS = {
    "FineTuneRun": {
        "id": (TEXT,), "startedAt": (TEXT,), "completedAt": (TEXT, None), "status": (TEXT,), "tracesUsed": (WHOLE,),
        "trainExamples": (WHOLE,), "valExamples": (WHOLE,), "loraPath": (TEXT, None), "baseModel": (TEXT,),
        "config": (TABLE,), "metrics": (TABLE, None), "errorMessage": (TEXT, None), "triggeredBy": (TEXT,),
    },
    "FineTuneConfig": {
        "loraRank": (WHOLE,), "loraAlpha": (WHOLE,), "learningRate": (NUMBER,), "batchSize": (WHOLE,),
        "gradientAccumulationSteps": (WHOLE,), "epochs": (WHOLE,), "maxSeqLength": (WHOLE,), "warmupRatio": (NUMBER,),
        "weightDecay": (NUMBER,), "minQualityScore": (NUMBER,), "baseModel": (TEXT,), "backend": (TEXT,),
    },
    "FineTuneMetrics": {
        "finalTrainLoss": (NUMBER, None), "finalValLoss": (NUMBER, None), "bestValLoss": (NUMBER, None),
        "totalSteps": (WHOLE, None), "trainingTimeSeconds": (NUMBER, None), "peakVramGb": (NUMBER, None),
        "perplexity": (NUMBER, None),
    },
    "LoRAAdapter": {
        "id": (TEXT,), "createdAt": (TEXT,), "baseModel": (TEXT,), "isActive": (YES_NO,), "tags": (LIST,),
        "metrics": (TABLE,), "tracesUsed": (WHOLE,), "sizeBytes": (WHOLE,), "sha256": (TEXT,), "path": (TEXT,),
        "isValid": (YES_NO,),
    },
    "LoRAActivationEvent": {
        "id": (TEXT,), "timestamp": (TEXT,), "adapterId": (TEXT, None), "previousAdapterId": (TEXT, None),
        "triggeredBy": (TEXT,), "success": (YES_NO, None), "errorMessage": (TEXT, None),
    },
    "BenchmarkRun": {
        "id": (TEXT,), "startedAt": (TEXT,), "completedAt": (TEXT, None), "status": (TEXT,), "type": (TEXT,),
        "adapterId": (TEXT, None), "questionCount": (WHOLE,), "completedQuestions": (WHOLE,), "metrics": (TABLE, None),
        "triggeredBy": (TEXT,),
    },
    "BenchmarkMetrics": {
        "tmdeScore": (NUMBER, None), "avgQualityScore": (NUMBER, None), "avgResponseTimeMs": (NUMBER, None),
        "avgTokensPerSecond": (NUMBER, None), "avgDebateRounds": (NUMBER, None), "earlyTerminationRate": (NUMBER, None),
        "domainScores": (TABLE,), "vsBaseline": (NUMBER, None), "vsPrevious": (NUMBER, None),
    },
    "BenchmarkQuestion": {
        "id": (TEXT,), "domain": (TEXT,), "difficulty": (TEXT,), "question": (TEXT,), "referenceAnswer": (TEXT,),
        "scoringRubric": (TEXT,), "isBuiltIn": (YES_NO,), "createdAt": (TEXT, None),
    },
    "BenchmarkResult": {
        "id": (TEXT,), "runId": (TEXT,), "questionId": (TEXT,), "finalAnswer": (TEXT,), "qualityScore": (NUMBER, None),
        "responseTimeMs": (NUMBER, None), "debateRounds": (WHOLE,), "earlyStopped": (YES_NO,), "traceId": (TEXT, None),
    },
}  # fmt: skip
"""Model → field → its JSON types. None: the value may be missing, and is null then."""

CHOICES = {
    ("FineTuneRun", "status"): {"pending", "running", "completed", "failed", "cancelled"},
    ("FineTuneRun", "triggeredBy"): {"manual", "scheduled", "api"},
    ("BenchmarkRun", "status"): {"pending", "running", "completed", "failed"},
    ("BenchmarkRun", "type"): {"quick", "full", "custom"},
    ("BenchmarkRun", "triggeredBy"): {"manual", "post-finetune", "scheduled"},
    ("BenchmarkQuestion", "difficulty"): {"easy", "medium", "hard"},
    ("LoRAActivationEvent", "triggeredBy"): {"user", "api", "rollback"},
}
MORE = {
    ("BenchmarkRun", "status"): {"cancelled", "interrupted"},
    ("LoRAActivationEvent", "triggeredBy"): {"gate"},
}
"""Values that TMDE has beyond those of the requirements."""

PYTHON = {TEXT: str, NUMBER: (int, float), WHOLE: int, YES_NO: bool, LIST: list, TABLE: dict, None: type(None)}


def described(schemas: dict, field: dict) -> tuple[set, set]:
    """The JSON types and the allowed values of a field in the document."""
    if "$ref" in field:
        return described(schemas, schemas[field["$ref"].rsplit("/", 1)[-1]])
    kinds: set = set()
    values: set = set()
    for one in field.get("anyOf", field.get("oneOf", ())):
        more_kinds, more_values = described(schemas, one)
        kinds, values = kinds | more_kinds, values | more_values
    named = field.get("type", ())
    kinds |= {None if one == "null" else one for one in ([named] if isinstance(named, str) else named)}
    if "enum" in field:
        values |= {one for one in field["enum"] if one is not None}
        kinds |= {TEXT} | ({None} if None in field["enum"] else set())
    return kinds, values


@pytest.mark.parametrize("model", MODELS)
def test_the_document_has_every_field_of_the_requirements_with_its_type(live, model) -> None:
    schemas = live.client.get("/schema/openapi.json").json()["components"]["schemas"]
    properties = schemas[model]["properties"]
    for field, types in MODELS[model].items():
        assert field in properties, f"{model}.{field} is missing"
        kinds, values = described(schemas, properties[field])
        assert kinds == set(types), f"{model}.{field}"
        if (model, field) in CHOICES:
            assert values == CHOICES[model, field] | MORE.get((model, field), set()), f"{model}.{field}"


def holds(model: str, answer: dict) -> None:
    """Check a real answer against the list."""
    for field, types in MODELS[model].items():
        assert field in answer, f"{model}.{field} is missing"
        value = answer[field]
        allowed = tuple(kind for one in types for kind in (PYTHON[one] if one == NUMBER else (PYTHON[one],)))
        assert isinstance(value, allowed), f"{model}.{field} is {value!r}"
        assert not (isinstance(value, bool) and YES_NO not in types), f"{model}.{field} is {value!r}"
        if (model, field) in CHOICES:
            assert value in CHOICES[model, field] | MORE.get((model, field), set())


def trained(live) -> dict:
    lines = [json.dumps({"query": f"Recite the times table of {n}.", "finalAnswer": f"{n}, {2 * n}", "qualityScore": 9})
             for n in range(6)]  # fmt: skip
    live.client.post("/api/traces/import", content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"})
    body = {"config": {"backend": "stand-in", "minTraces": 2, "baseModel": "quick"}}
    run_id = live.client.post("/api/finetune", json=body).json()["runId"]
    live.run(live.services.finetune.wait(UUID(run_id)))
    run: dict = live.client.get(f"/api/finetune/{run_id}").json()
    return run


def test_the_answers_of_a_training_run_have_the_fields_of_the_requirements(own_live) -> None:
    run = trained(own_live)
    assert (run["status"], run["triggeredBy"]) == ("completed", "api")
    holds("FineTuneRun", run)
    holds("FineTuneConfig", run["config"])
    holds("FineTuneConfig", own_live.client.get("/api/finetune/config").json())
    holds("FineTuneMetrics", run["metrics"])
    (adapter,) = own_live.client.get("/api/lora").json()["items"]
    holds("LoRAAdapter", adapter)
    holds("LoRAAdapter", own_live.client.get(f"/api/lora/{adapter['id']}").json())
    refused = own_live.client.post("/api/finetune", json={"triggeredBy": "the moon"})
    assert (refused.status_code, refused.json()["field"]) == (400, "triggeredBy")


QUESTION = {
    "question": "What is six times seven?",
    "referenceAnswer": "42",
    "scoringRubric": "The answer is 42.",
    "check": "number",
    "domain": "mathematics",
    "difficulty": "easy",
}


def measured(live, questions: list[str], **changes) -> dict:
    body = {"type": "custom", "questionIds": questions, "repeats": 1, **changes}
    started = live.client.post("/api/benchmark", json=body)
    assert started.status_code == 202, started.text
    live.run(live.services.benchmark.wait(UUID(started.json()["runId"])))
    run: dict = live.client.get(f"/api/benchmark/{started.json()['runId']}").json()
    return run


@pytest.mark.parametrize("mode", ["debate", "proposer"])
def test_the_answers_of_a_benchmark_have_the_fields_of_the_requirements(own_live, mode) -> None:
    added = own_live.client.post("/api/benchmark/questions", json=QUESTION)
    assert added.status_code == 201, added.text
    holds("BenchmarkQuestion", added.json())
    asked = {name: added.json()[name] for name in QUESTION}
    assert asked == QUESTION
    assert (added.json()["isBuiltIn"], added.json()["createdAt"][-1]) == (False, "Z")
    own_live.client.post("/api/benchmark/questions", json={**QUESTION, "question": "What is 42?", "domain": "science"})
    names = [one["id"] for one in own_live.client.get("/api/benchmark/questions?suite=custom").json()["items"]]
    for run in (measured(own_live, names, mode=mode), measured(own_live, names, mode=mode)):
        holds("BenchmarkRun", run)
        holds("BenchmarkMetrics", run["metrics"])
        assert (run["status"], run["questionCount"], run["completedQuestions"]) == ("completed", 2, 2)
        assert set(run["metrics"]["domainScores"]) == {"mathematics", "science"}
        results = own_live.client.get(f"/api/benchmark/{run['id']}/results").json()["items"]
        for result in results:
            holds("BenchmarkResult", result)
            assert (result["traceId"] is not None) == (mode == "debate")
        assert len({result["id"] for result in results}) == 2
    assert run["metrics"]["vsPrevious"] is not None  # the second run has a previous one
    exported = own_live.client.get("/api/benchmark/export").json()["items"][0]
    holds("BenchmarkRun", exported["run"])
    holds("BenchmarkResult", exported["results"][0])
    header = own_live.client.get("/api/benchmark/export?format=csv").text.splitlines()[0].split(",")
    assert {"question_count", "avg_quality_score", "vs_baseline", "final_answer", "debate_rounds"} <= set(header)


def test_every_built_in_question_has_a_reference_a_rubric_and_a_time(live) -> None:
    found = live.client.get("/api/benchmark/questions?suite=tmde-50").json()["items"]
    assert len(found) == 50
    for question in found:
        holds("BenchmarkQuestion", question)
        assert question["referenceAnswer"].strip()
        assert question["scoringRubric"].strip()
        assert question["isBuiltIn"]
        assert question["createdAt"].endswith("Z")


def test_a_listed_question_can_be_sent_back_unchanged(own_live) -> None:
    checked = {"criteria": [{"name": "right", "check": {"kind": "number", "value": 42}}]}
    for body in (QUESTION, {**QUESTION, **checked, "question": "What is 42?", "scoringRubric": None, "check": None}):
        added = own_live.client.post("/api/benchmark/questions", json=body).json()
        again = own_live.client.put(f"/api/benchmark/questions/{added['id']}", json=added)
        assert (again.status_code, again.json()) == (200, added)


def test_the_names_of_earlier_versions_are_still_read_in_a_question(own_live) -> None:
    body = {"query": "Is 2 even?", "reference": "yes", "rubric": "It says yes.", "domain": "mathematics"}
    added = own_live.client.post("/api/benchmark/questions", json=body)
    assert added.status_code == 201, added.text
    assert (added.json()["question"], added.json()["referenceAnswer"]) == ("Is 2 even?", "yes")


def test_events_of_the_audit_trail_have_the_fields_of_the_requirements(own_live) -> None:
    adapter = published(own_live)
    assert own_live.client.post(f"/api/lora/{adapter}/activate").status_code == 200
    own_live.client.post("/api/lora/deactivate")
    for event in own_live.client.get("/api/lora/events").json()["items"]:
        holds("LoRAActivationEvent", event)
