"""Models from a Hugging Face hub, or any server that speaks its protocol (HF_ENDPOINT).

Only safetensors and text files are fetched. A transfer that was cut goes on where it stopped, also
in a later run, and every file is compared with the digest that the hub states.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everloop.errors import AuthenticationFailed, DataError, EverloopError, InvalidRequest, NotFound
from everloop.model import lora
from everloop.model.checkpoint import refuse_pickles
from everloop.model.config import ModelConfig

DEFAULT_ENDPOINT = "https://huggingface.co"

# Weights by exact names: some repositories hold the same weights a second time in another layout.
_WANTED = re.compile(
    r"(model|adapter_model|model-\d+-of-\d+)\.safetensors"
    r"|[A-Za-z0-9_][A-Za-z0-9_.+-]*\.(json|jinja|txt)"
    r"|(LICENSE|NOTICE|README)(\.md)?"
)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class HubUnreachable(EverloopError):
    """The hub can't be reached, or broke off for good."""

    status = 502
    exit_code = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """A downloaded model: its files lie in `directory`, `commit` is the hub's revision id."""

    directory: Path
    repository: str
    commit: str


def parse(name: str) -> tuple[str, str | None]:
    """ORG/NAME and the revision of `ORG/NAME[@REVISION]`."""
    repository, _, revision = name.partition("@")
    if not _REPOSITORY.fullmatch(repository) or ("@" in name and not revision):
        raise InvalidRequest(
            f"{name!r} is no hub model: write ORG/NAME or ORG/NAME@REVISION.", param="name"
        )
    return repository, revision or None


def pull(name: str, downloads: Path) -> Pulled:
    """Downloads `ORG/NAME[@REVISION]` below the folder `downloads`; call it again to go on after
    a break. Token and proxies are huggingface_hub's (HF_TOKEN, HTTPS_PROXY, …).

    Raises NotFound, AuthenticationFailed (gated or private), HubUnreachable, InvalidRequest (an
    architecture that Everloop doesn't compute), DataError (no safetensors; a file that isn't what
    the hub says).
    """
    from huggingface_hub import HfApi, hf_hub_url

    repository, revision = parse(name)
    endpoint = os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")
    with _plain_errors(name, endpoint):
        info = HfApi(endpoint=endpoint).model_info(
            repository, revision=revision, files_metadata=True
        )
    files = [s for s in info.siblings or [] if _WANTED.fullmatch(s.rfilename)]
    where = f"{endpoint}/{repository}"
    if not any(file.rfilename.endswith(".safetensors") for file in files):
        refuse_pickles(sorted(s.rfilename for s in info.siblings or []), where)
        raise DataError("has no safetensors weights.", path=where, repair="Choose another model.")
    commit = info.sha or revision or "main"
    directory = downloads / repository.replace("/", "--") / commit
    directory.mkdir(parents=True, exist_ok=True)
    _check_space(directory, sum(file.size or 0 for file in files))
    files.sort(key=lambda file: file.rfilename.endswith(".safetensors"))
    for file in files:
        if file.rfilename.endswith(".safetensors"):
            _check_supported(directory)  # before gigabytes that would be of no use
        target = directory / file.rfilename
        if target.is_file() and _digests_match(target, file):
            continue
        url = hf_hub_url(repository, file.rfilename, revision=commit, endpoint=endpoint)
        with _plain_errors(name, endpoint):
            _fetch(url, target, file)
    return Pulled(directory=directory, repository=repository, commit=commit)


def _check_supported(directory: Path) -> None:
    if (directory / lora.CONFIG_FILE).is_file():
        lora.read_config(directory)
    else:
        ModelConfig.load(directory)


def _fetch(url: str, target: Path, file: Any) -> None:
    """Downloads by way of a `.partial` file. huggingface_hub resumes within one run; keeping the
    partial file lets the next run go on as well."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    partial = target.with_name(target.name + ".partial")
    with partial.open("ab") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRequest(f"{target.name} is being pulled by another process.") from None
        there = opened.tell()
        if file.size is None or there > file.size:
            there = 0
            opened.truncate(0)
        http_get(
            url,
            opened,
            resume_size=there,
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=target.name,
        )
        opened.flush()
        os.fsync(opened.fileno())
        if not _digests_match(partial, file):
            partial.unlink()
            raise DataError(
                "arrived damaged: its digest isn't the one that the hub states. It was removed.",
                path=str(target),
                repair="Pull again.",
            )
        partial.rename(target)


def _digests_match(path: Path, file: Any) -> bool:
    """Compares with the SHA-256 of large files, git's blob id of small ones."""
    if file.lfs is not None:
        with path.open("rb") as opened:
            return bool(hashlib.file_digest(opened, "sha256").hexdigest() == file.lfs.sha256)
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return file.blob_id in (None, blob)  # a mirror may state none; then the size must do


def _check_space(directory: Path, needed: int) -> None:
    there = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
    free = shutil.disk_usage(directory).free
    if needed - there > free:
        raise EverloopError(
            f"The model needs {needed / 1e9:.1f} GB, {directory} has {free / 1e9:.1f} GB free. "
            "Make room, or set EVERLOOP_HOME to a larger disk."
        )


@contextmanager
def _plain_errors(name: str, endpoint: str) -> Iterator[None]:
    """huggingface_hub's exceptions in our words."""
    from httpx2 import HTTPError
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise AuthenticationFailed(
            f"{name} is gated: accept its terms on {endpoint}, then set HF_TOKEN to your token."
        ) from None
    except errors.RepositoryNotFoundError:
        raise NotFound(
            f"{endpoint} has no model {name}, or it is private: then set HF_TOKEN to your token."
        ) from None
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError):
        raise NotFound(f"{endpoint} has {name.split('@')[0]}, but not this revision.") from None
    except errors.OfflineModeIsEnabled:
        raise HubUnreachable("HF_HUB_OFFLINE is set: unset it to pull a model.") from None
    except errors.HfHubHTTPError as error:
        raise HubUnreachable(
            f"{endpoint} answered {error.response.status_code} for {name}. Try again later, or "
            "set HF_ENDPOINT to a mirror."
        ) from None
    except (HTTPError, errors.LocalEntryNotFoundError, errors.FileMetadataError) as error:
        raise HubUnreachable(
            f"{endpoint} can't be reached for {name} ({error}). Check the network, or set "
            "HF_ENDPOINT to a mirror; what has arrived is kept."
        ) from None
    except OSError as error:
        raise EverloopError(
            f"{name} couldn't be stored: {error}. Make room, then pull again."
        ) from error
