"""The keys of the xDS port, as this process holds them.

Both replicas read the Secret; only the leader makes or renews it (kube/certificates decides when).
The gRPC server asks for the keys at each handshake, so renewed ones need no restart. It never
logs a key. Called by controller/operator and by the gRPC server's own thread.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import UTC, datetime

from llmrollouts.kube.certificates import XDS_SECRET, SecretWriter, ensure_certificates
from llmrollouts.kube.port import SECRET, NotFound, Reader
from llmrollouts.traffic.tls import Keys


class XdsKeys:
    """A KeySource for traffic/tls. ``writer`` refuses while this process does not lead."""

    def __init__(
        self,
        reader: Reader,
        writer: SecretWriter,
        namespace: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._namespace = namespace
        self._now = now
        self._keys: Keys | None = None

    def __call__(self) -> Keys:
        if self._keys is None:
            raise LookupError("there are no keys for the xDS port yet")
        return self._keys

    def there(self) -> bool:
        return self._keys is not None

    async def ensure(self) -> None:
        """Make or renew the Secrets as the leader, then load ours. Raises what the API raises,
        and NotLeading."""
        await ensure_certificates(self._reader, self._writer, self._namespace, self._now())
        await self.load()

    async def load(self) -> None:
        """Raises NotFound while nobody has made the Secret, else what the API raises."""
        secret = await self._reader.get(SECRET, self._namespace, XDS_SECRET)
        data = secret.get("data") or {}
        try:
            self._keys = Keys(
                authority=base64.b64decode(data["ca.crt"], validate=True),
                certificate=base64.b64decode(data["tls.crt"], validate=True),
                key=base64.b64decode(data["tls.key"], validate=True),
            )
        except (KeyError, binascii.Error) as error:
            raise NotFound(f"Secret {XDS_SECRET} is incomplete: {error}") from error
