"""Tokens on disk: hashed, for some or all resources, seen by everybody as soon as they change."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from transports.local import Role, TokenError, TokenFile

TOPIC = "projects/p/topics/"


class TestMaking:
    def test_the_secret_finds_its_token_and_stands_nowhere(self, tmp_path: Path) -> None:
        token, secret = TokenFile(tmp_path).create(Role.PUBLISHER, ["celery-gpu"], "laptop")
        assert TokenFile(tmp_path).find(secret) == token
        assert TokenFile(tmp_path).find(f"{secret}x") is None
        assert all(secret not in path.read_text() for path in tmp_path.iterdir())
        assert secret not in repr(token)

    def test_only_the_owner_may_read_the_file(self, tmp_path: Path) -> None:
        file = TokenFile(tmp_path / "data")
        file.create(Role.VIEWER)
        assert (file.path.stat().st_mode & 0o777, file.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)

    def test_secrets_differ_and_are_recognisable(self, tmp_path: Path) -> None:
        file = TokenFile(tmp_path)
        secrets = {file.create(Role.VIEWER)[1] for _ in range(5)}
        assert len(secrets) == 5
        assert all(each.startswith("sbt_") and len(each) > 40 for each in secrets)

    def test_a_name_is_used_once(self, tmp_path: Path) -> None:
        file = TokenFile(tmp_path)
        file.create(Role.VIEWER, name="one")
        with pytest.raises(TokenError, match="named 'one' already"):
            file.create(Role.EDITOR, name="one")

    @pytest.mark.parametrize("pattern", ["", "a b", "a?", "[a]", "projects/p/topics/t", "ä"])
    def test_what_is_no_pattern_is_refused(self, tmp_path: Path, pattern: str) -> None:
        with pytest.raises(TokenError, match="no id"):
            TokenFile(tmp_path).create(Role.VIEWER, [pattern])

    @pytest.mark.parametrize("name", ["a b", "-a", "x" * 64, "a\nb"])
    def test_what_is_no_name_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(TokenError, match="token's name"):
            TokenFile(tmp_path).create(Role.VIEWER, name=name)

    def test_many_writers_lose_nothing(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: TokenFile(tmp_path).create(Role.VIEWER)[0], range(24)))
        assert set(TokenFile(tmp_path).tokens()) == set(made)


class TestRevoking:
    def test_another_reader_sees_it_at_once(self, tmp_path: Path) -> None:
        reader = TokenFile(tmp_path)
        assert reader.tokens() == []
        token, secret = TokenFile(tmp_path).create(Role.VIEWER, name="mine")
        assert reader.find(secret) == token
        assert TokenFile(tmp_path).revoke("mine") == token
        assert reader.find(secret) is None

    def test_a_token_is_revoked_by_its_id_too(self, tmp_path: Path) -> None:
        file = TokenFile(tmp_path)
        token, _ = file.create(Role.VIEWER)
        assert file.revoke(token.id) == token
        assert file.tokens() == []

    def test_what_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(TokenError, match="no token 'ghost'"):
            TokenFile(tmp_path).revoke("ghost")


class TestReading:
    @pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "tokens": [{"id": "x"}]}'])
    def test_a_damaged_file_lets_nobody_in_and_is_left_alone(self, tmp_path: Path, content: str) -> None:
        file = TokenFile(tmp_path)
        _, secret = file.create(Role.VIEWER)
        file.path.write_text(content)
        for attempt in (lambda: file.find(secret), file.tokens, lambda: file.create(Role.VIEWER)):
            with pytest.raises(TokenError, match="damaged"):
                attempt()
        assert file.path.read_text() == content

    def test_a_later_schema_is_refused(self, tmp_path: Path) -> None:
        file = TokenFile(tmp_path)
        file.path.write_text(json.dumps({"schema": 2, "tokens": []}))
        with pytest.raises(TokenError, match="newer broker"):
            file.tokens()

    def test_a_directory_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(TokenError, match="Cannot write"):
            TokenFile(tmp_path / "file").create(Role.VIEWER)


class TestPermitting:
    @pytest.mark.parametrize(
        ("patterns", "id", "expected"),
        [
            ([], "celery-gpu", True),
            (["celery-gpu"], "celery-gpu", True),
            (["celery-gpu"], "celery-gpu2", False),
            (["celery-gpu*"], "celery-gpu2", True),
            (["celery-gpu*"], "celery-cpu", False),
            (["celery-cpu", "celery-gpu"], "celery-gpu", True),
            (["*"], "whatever", True),
            (["celery-priority~*~gpu"], "celery-priority~3~gpu", True),
            (["celery-priority~*~gpu"], "celery-priority~3~gpu2", False),
        ],
    )
    def test_a_pattern_is_an_id_in_which_a_star_is_anything(
        self, tmp_path: Path, patterns: list[str], id: str, expected: bool
    ) -> None:
        token, _ = TokenFile(tmp_path).create(Role.PUBLISHER, patterns)
        assert token.permits("pubsub.topics.publish", TOPIC + id) is expected

    def test_what_the_role_has_not_is_not_permitted(self, tmp_path: Path) -> None:
        token, _ = TokenFile(tmp_path).create(Role.PUBLISHER)
        assert not token.permits("pubsub.topics.get", f"{TOPIC}celery-gpu")

    def test_a_token_for_some_is_not_for_the_project(self, tmp_path: Path) -> None:
        file = TokenFile(tmp_path)
        some, everything = file.create(Role.VIEWER, ["*"])[0], file.create(Role.VIEWER)[0]
        assert not some.permits("pubsub.topics.list", "projects/p")
        assert everything.permits("pubsub.topics.list", "projects/p")
