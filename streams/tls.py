"""TLS to the brokers: the authority to trust, and our certificate if they ask for one (mutual TLS)."""

from __future__ import annotations

import ssl

from earlybell.streams.exceptions import CommandError
from earlybell.streams.settings import Settings


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context for connections to the brokers, or None if the protocol does not use TLS.

    Raises
    ------
    CommandError
        A certificate or key cannot be loaded. The text names the setting.
    """
    if not settings.kafka_security_protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca_file)
    except (ssl.SSLError, OSError) as error:
        raise CommandError(f"EARLYBELL_KAFKA_CA_FILE={settings.kafka_ca_file} cannot be loaded: {error}") from error
    if settings.kafka_cert_file is not None:
        secret = settings.kafka_key_password
        # An empty password makes an encrypted key fail; without one OpenSSL would prompt on the terminal.
        password = secret.get_secret_value() if secret else ""
        try:
            context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file, lambda: password)
        except (ssl.SSLError, OSError) as error:
            raise CommandError(
                f"EARLYBELL_KAFKA_CERT_FILE={settings.kafka_cert_file} and its key cannot be loaded: {error}; "
                "both are PEM, the key in that file or in EARLYBELL_KAFKA_KEY_FILE, "
                "its password in EARLYBELL_KAFKA_KEY_PASSWORD"
            ) from error
    return context
