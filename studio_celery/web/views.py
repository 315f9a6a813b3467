"""The pages. Each calls the client and shapes its answer; nothing is decided here."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from flask import Flask, Response, abort, redirect, request, url_for
from flask.typing import ResponseReturnValue

from studio_celery.client import LIST_LIMIT, Client
from studio_celery.errors import UnknownExperiment, UsageError
from studio_celery.experiment import Status
from studio_celery.web import output
from studio_celery.web.rendering import page
from studio_celery.web.texts import file_name

#: States that a list can be narrowed to; those still submitting are never listed.
FILTERS = tuple(status for status in Status if status is not Status.SUBMITTING)

#: A list is not longer than this, whatever is asked for.
ROWS_LIMIT = 1000

#: No output is longer than this, bytes: a greater offset is a mistake.
OFFSET_LIMIT = 2**40

#: No id, prefix or name that can be found is longer.
REFERENCE_LIMIT = 200

#: What a store takes as part of a key, and so what an id can be.
_REFERENCE = re.compile(rf"(?!\.\.?$)[^\x00-\x1f\x7f/]{{1,{REFERENCE_LIMIT}}}")


class Pages:
    """Views over one client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def register(self, app: Flask) -> None:
        """Add all routes."""
        app.add_url_rule("/", "index", self.index)
        app.add_url_rule("/table", "table", self.table)
        app.add_url_rule("/experiments/<reference>", "experiment", self.experiment)
        app.add_url_rule("/experiments/<reference>/state", "state", self.state)
        app.add_url_rule("/experiments/<reference>/log", "log", self.log)
        app.add_url_rule("/experiments/<reference>/log.txt", "raw_log", self.raw_log)
        app.add_url_rule("/experiments/<reference>/artifacts/<path:key>", "artifact", self.artifact)
        app.add_url_rule("/experiments/<reference>/stop", "stop", self.stop, methods=["POST"])

    def index(self) -> ResponseReturnValue:
        """The list of experiments, the latest first."""
        return page("list.html", **self._rows())

    def table(self) -> ResponseReturnValue:
        """The list alone, to bring an open page up to date."""
        return page("_table.html", **self._rows())

    def _rows(self) -> dict[str, Any]:
        limit = min(_number("limit", LIST_LIMIT, 1), ROWS_LIMIT)
        status = request.args.get("status") or None
        if status and status not in FILTERS:
            abort(400, f"{status!r} is not a state: choose one of {', '.join(FILTERS)}.")
        records = self._client.list(limit + 1, frozenset([Status(status)]) if status else frozenset())
        more = len(records) > limit and limit < ROWS_LIMIT
        return {
            "records": records[:limit],
            "limit": limit,
            "next_limit": limit + LIST_LIMIT if more else None,
            "status": status,
            "filters": FILTERS,
        }

    def experiment(self, reference: str) -> ResponseReturnValue:
        """One experiment with the end of its output."""
        experiment_id = self._resolve(reference)
        if experiment_id != reference:
            return redirect(url_for("experiment", reference=experiment_id))
        return page("experiment.html", output=output.tail(self._client, experiment_id), **self._facts(experiment_id))

    def state(self, reference: str) -> ResponseReturnValue:
        """All of that page but the output, to bring an open page up to date."""
        return page("_state.html", **self._facts(self._resolve(reference)))

    def _facts(self, experiment_id: str) -> dict[str, Any]:
        return {
            "record": self._client.show(experiment_id),
            "files": self._client.artifacts(experiment_id),
            "events": self._client.events(experiment_id),
        }

    def log(self, reference: str) -> ResponseReturnValue:
        """Output from a byte on, as JSON."""
        offset, attempt = _number("offset", 0, 0), _number("attempt", 0, 0)
        if offset > OFFSET_LIMIT:
            abort(400, "The offset is beyond what any output can have.")
        return dataclasses.asdict(output.following(self._client, self._resolve(reference), attempt, offset))

    def raw_log(self, reference: str) -> ResponseReturnValue:
        """The output byte for byte, of `?attempt=` or else the latest."""
        pieces = output.raw(self._client, self._resolve(reference), _number("attempt", 0, 0) or None)
        return Response(pieces, mimetype="text/plain")

    def artifact(self, reference: str, key: str) -> ResponseReturnValue:
        """One file that the experiment left, to be saved, never shown."""
        experiment_id = self._resolve(reference)
        sizes = {item.key: item.size for item in self._client.artifacts(experiment_id)}
        if key not in sizes:
            abort(404, f"{experiment_id} left no file {key!r}: its page lists what it left.")
        response = Response(self._client.artifact(experiment_id, key), mimetype="application/octet-stream")
        response.content_length = sizes[key]
        response.headers.set("Content-Disposition", "attachment", filename=file_name(key))
        return response

    def stop(self, reference: str) -> ResponseReturnValue:
        """Ask for a stop, and go back to the page."""
        experiment_id = self._resolve(reference)
        try:
            self._client.stop(experiment_id)
        except UsageError as exc:
            abort(409, str(exc))
        return redirect(url_for("experiment", reference=experiment_id), 303)

    def _resolve(self, reference: str) -> str:
        """The id that is meant; what cannot be an object's name in the store is unknown, like any other."""
        if not _REFERENCE.fullmatch(reference):
            raise UnknownExperiment(f"No experiment fits {reference[:REFERENCE_LIMIT]!r}: the list shows them.")
        return self._client.resolve(reference)


def _number(name: str, default: int, least: int) -> int:
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) >= least):
        abort(400, f"{name}={text[:40]!r} cannot be used: it must be a whole number, {least} or more.")
    return int(text)
