"""Secrets of URIs appear in no message, page or artifact."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.cli import main
from raylabel.config import Config, DataConfig
from raylabel.errors import InputError, StorageError
from raylabel.redaction import redacted
from raylabel.report.page import build_report
from raylabel.run.folder import RunFolder, commit_config, load_run_config

SECRET = "s3cr3t%2Fx+y"
URIS = [
    f"s3://user:{SECRET}@bucket/a.jpg",
    f"s3://user:{SECRET}/z@bucket/a.jpg",
    f"https://{SECRET}@github.com/a.jpg",
    f"s3://bucket/a?access_key=x&secret_key={SECRET}&region=eu",
    f"https://host/a.jpg?X-Amz-Algorithm=AWS4&X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}&X-Amz-Expires=60",
    f"https://account.blob.core.windows.net/a?sv=2022&se=2030&sig={SECRET}",
    f"https://host/a?X-Goog-Signature={SECRET}",
    f"https://host/a?token={SECRET}#part",
    f"https://host/a?AWSAccessKeyId=x&Signature={SECRET}&Expires=1",
]


@pytest.mark.parametrize("uri", URIS)
def test_secrets_are_hidden_wherever_the_uri_stands(uri: str) -> None:
    for text in (uri, f"{uri}: no such file", f"got '{uri}'", f'"{uri}",', f"<td>{uri.replace('&', '&amp;')}</td>"):
        hidden = redacted(text)
        assert "s3cr3t" not in hidden
        assert redacted(hidden) == hidden
    assert redacted(f"{uri}: no such file") == f"{redacted(uri)}: no such file"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a.jpg?endpoint_override=127.0.0.1:9000&scheme=http&region=eu",
        "http://host:8000/photo@2x.jpg: HTTP status 404",
        "a@b.org wrote https://host/a?size=3&page=2#top",
        "/data/user@host/key=value.jpg",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redacted(text) == text


PASSWORDS = st.text(st.characters(exclude_characters="@/:?&;#<>\"'", exclude_categories=("Z", "C")), min_size=1)


@given(PASSWORDS)
def test_any_password_is_hidden(password: str) -> None:
    assert redacted(f"a s3://name:{password}@bucket/x b") == "a s3://***@bucket/x b"


@pytest.mark.parametrize("kind", [InputError, StorageError])
def test_errors_hide_secrets_also_after_a_journey(kind: type[Exception]) -> None:
    error = kind(f"{URIS[0]}: no such file")
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert str(one) == "s3://***@bucket/a.jpg: no such file"


def test_the_console_hides_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", f"memory://user:{SECRET}@nowhere/run"]) == 2
    captured = capsys.readouterr()
    assert "memory://***@nowhere/run" in captured.err
    assert "s3cr3t" not in captured.err + captured.out


def test_the_report_hides_secrets_and_the_config_keeps_them(tmp_path: Path) -> None:
    names = dict.fromkeys(("labelled", "calibration", "validation"), URIS[4])
    config = Config(data=DataConfig(images=URIS[0], pool=URIS[5], **names))
    run = RunFolder(str(tmp_path))
    commit_config(run, config)
    page = build_report(run)
    assert "s3://***@bucket/a.jpg" in page
    assert "sig=***" in page
    assert "s3cr3t" not in page
    assert load_run_config(run) == config
