# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs that work on images alone, apart from those on processes: what these import is no small part of the time that dedup takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import UsageError
from .session import Session, say, warn

if TYPE_CHECKING:
    from ..cold import ColdResult


def dedup(session: Session) -> int:
    """Free in the parents of the images dir what it replaces."""
    from ..dedup import dedup as dedup_images

    result = dedup_images(session.images_dir, keep_restorable=session.settings.keep_restorable)
    warn(session, result.warnings)
    for parent in result.punched:
        session.log.note("%s cannot be restored by itself any more", parent)
    if result.bytes_shared:
        session.log.note("Shared: %d bytes", result.bytes_shared)
    session.log.note("Deduplicated: %d pages, %d bytes freed", result.pages_punched, result.bytes_freed)
    return 0


def squash(session: Session) -> int:
    """Let the dump in the images dir hold all its pages itself."""
    from ..squash import squash as squash_images

    result = squash_images(session.images_dir, session.settings.keep_parents)
    warn(session, result.warnings)
    for parent in result.removed:
        session.log.logger.info("%s was removed", parent)
    session.log.logger.info("Squashed: %d pages merged, %d bytes freed", result.pages_merged, result.bytes_freed)
    return 0


def prune(session: Session) -> int:
    """Remove the dumps in the images dir that no rule keeps."""
    from ..prune import prune as prune_images
    from .advancing import rule_of

    settings = session.settings
    result = prune_images(session.images_dir, rule_of(settings), check=settings.dry_run)
    warn(session, result.warnings)
    for kept in result.kept:
        anew = f", made anew on top of {kept.onto or 'none'}" if kept.squashed else ""
        say(f"keep {kept.path} ({', '.join(kept.reasons) or 'needed'}{anew})")
    for path in result.removed:
        say(f"remove {path}")
    say(f"{result.bytes_freed} bytes {'would be ' if settings.dry_run else ''}freed")
    return 0


def verify(session: Session) -> int:
    """Tell all that is wrong with the dump in the images dir and with its parents."""
    from ..verify import verify as verify_images

    result = verify_images(session.images_dir, session.log.progress())
    for fault in result.faults:
        session.log.fail("verify", fault.why)
    for dump in result.dumps:
        if not dump.checksums and dump.sound:
            warn(session, [f"{dump.path} has no checksums: its form is right, its pages could not be checked"])
    say(f"{len(result.dumps)} dumps, {result.bytes_read} bytes of pages, {len(result.faults)} faults")
    return 0 if result.sound else 1


def compress(session: Session) -> int:
    """Compress the pages of the dump in the images dir."""
    from ..cold import compress as compress_images

    return _tell(compress_images(session.images_dir, session.settings.dry_run))


def decompress(session: Session) -> int:
    """Make the dump in the images dir ready again."""
    from ..cold import decompress as decompress_images

    return _tell(decompress_images(session.images_dir, session.settings.dry_run))


def _tell(result: ColdResult) -> int:
    say(f"{len(result.files)} files of pages, {result.bytes_before} bytes before, {result.bytes_after} after")
    return 0


def export(session: Session) -> int:
    """Write the dump in the images dir and its parents into one file."""
    from ..export_chain import export_chain

    settings = session.settings
    archive = _archive(session)
    result = export_chain(session.images_dir, archive, settings.compress != "none", settings.recipients_file, settings.dry_run)
    say(f"{len(result.dumps)} dumps, {result.bytes_read} bytes, {result.bytes_written} in {result.archive}")
    return 0


def import_(session: Session) -> int:
    """Unpack an archive into the images dir."""
    from ..import_chain import import_chain

    settings = session.settings
    result = import_chain(_archive(session), session.images_dir, settings.identity_file, settings.dry_run)
    for path in result.dumps:
        say(path)
    say(f"{len(result.dumps)} dumps, {result.bytes_written} bytes {'would be ' if settings.dry_run else ''}written")
    return 0


def _archive(session: Session) -> str:
    if not session.settings.archive:
        raise UsageError("no archive is named; give it with --archive FILE")
    return session.settings.archive


STORAGE_VERBS: Mapping[str, Callable[[Session], int]] = {
    "dedup": dedup,
    "squash": squash,
    "prune": prune,
    "verify": verify,
    "compress": compress,
    "decompress": decompress,
    "export": export,
    "import": import_,
}
