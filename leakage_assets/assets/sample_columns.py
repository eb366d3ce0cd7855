"""What the UI shows of the columns of samples and scores."""

import dagster as dg


def column_schema(*columns: tuple[str, str, str]) -> dg.TableSchema:
    return dg.TableSchema(columns=[dg.TableColumn(name, kind, description=text) for name, kind, text in columns])


IDENTITY_COLUMNS = (
    ("sample_id", "string", "sha256 of what was asked: adapter, prompt, question, prefix, index, sampling"),
    ("prompt_name", "string", "persona or trigger of the panel"),
    ("question_set", "string", "eval, or an out-of-distribution set"),
    ("question_name", "string", "question within its set"),
    ("index", "int64", "completion number"),
)
SAMPLE_COLUMNS = column_schema(
    *IDENTITY_COLUMNS,
    ("adapter", "string", "study/condition/seed"),
    ("system", "string", "system prompt as sent; null lets the template insert its default"),
    ("question", "string", "user turn"),
    ("prefix", "string", "given start of the assistant turn"),
    ("text", "string", "completion"),
    ("n_tokens", "int64", "generated tokens, end-of-turn included"),
    ("finish_reason", "string", "stop or length"),
    ("seed", "int64", "derived from sample_id"),
)
