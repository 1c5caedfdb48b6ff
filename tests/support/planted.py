"""Secrets that are generated and were never anybody's, and texts that only look like some."""

from __future__ import annotations

import base64
import json
import random
import string
from typing import Any, Final

_WORD: Final = string.ascii_letters + string.digits
_UPPER: Final = string.ascii_uppercase + string.digits
_HEX: Final = "0123456789abcdef"


def planted_keys(seed: int) -> dict[str, tuple[str, str]]:
    """By kind, a text that holds a key and the key itself.

    They are put together here, so that no file of the repository holds one.
    """
    rng = random.Random(seed)

    def draw(length: int, characters: str = _WORD) -> str:
        return "".join(rng.choice(characters) for _ in range(length))

    def encoded(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    def block(kind: str) -> str:
        lines = "\n".join(draw(64, _WORD + "+/") for _ in range(12))
        return f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----"

    keys = {
        "aws_access_key": "AKIA" + draw(16, string.ascii_uppercase + "234567"),
        "github": "ghp_" + draw(36),
        "github_fine_grained": "github_pat_" + draw(22) + "_" + draw(59),
        "gitlab": "glpat-" + draw(20),
        "slack": f"xoxb-{draw(12, string.digits)}-{draw(12, string.digits)}-{draw(24)}",
        "slack_webhook": "https://hooks.slack.com/services/"
        + f"T{draw(8, _UPPER)}/B{draw(8, _UPPER)}/{draw(24)}",
        "stripe": "sk_live_" + draw(24),
        "openai": "sk-proj-" + draw(74) + "T3BlbkFJ" + draw(74),
        "anthropic": "sk-ant-api03-" + draw(93) + "AA",
        "google": "AIza" + draw(35),
        "huggingface": "hf_" + draw(34, string.ascii_letters),
        "sendgrid": f"SG.{draw(22)}.{draw(43)}",
        "twilio": "SK" + draw(32, _HEX),
        "npm": "npm_" + draw(36),
        "pypi": "pypi-AgEIcHlwaS5vcmc" + draw(80),
        "jwt": f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{encoded({'sub': draw(10)})}.{draw(43)}",
        "telegram": f"{draw(9, '123456789')}:AA{draw(33)}",
        "discord": f"M{draw(23)}.{draw(6)}.{draw(27)}",
        "mailchimp": draw(32, _HEX) + "-us12",
        "digitalocean": "dop_v1_" + draw(64, _HEX),
        "private_key": block("RSA PRIVATE KEY"),
        "openssh_key": block("OPENSSH PRIVATE KEY"),
    }
    plain = {name: (key, key) for name, key in keys.items()}
    aws, azure, password, api = draw(40, _WORD + "/+"), draw(86, _WORD + "+/"), draw(16), draw(32)
    return {
        **plain,
        "aws_secret": (f'aws_secret_access_key = "{aws}"', aws),
        "azure": (f"AccountName=acme;AccountKey={azure}==;EndpointSuffix=core.windows.net", azure),
        "basic_auth": (f"https://admin:{password}@db.acme-corp.io/prod", password),
        "api_key": (f'api_key = "{api}"', api),
    }


PERSONAL: Final[dict[str, tuple[str, ...]]] = {
    "email": ("ada.lovelace@analytical.org", "o+tag@sub.mail.co.uk"),
    "phone": ("+44 20 7946 0958", "(212) 736-5000", "212-736-5000", "+49 30 901820"),
    "card": ("4111 1111 1111 1111", "5500005555555559", "3714 496353 98431"),
    "iban": ("DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"),
    "ip": ("84.112.33.207", "2a00:1450:4001:81b::200e"),
}
"""Published examples of each kind: of issuers, of the standard, of numbering plans."""

HARMLESS: Final = (
    'integrity="sha384-JcKb8q3iqJ61gNV9KGb8thSsNjpSL0n8PARn9HuZOnIxN0hoP+VmmDGMN5t9UJ0Z"',
    'chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"',
    "if username == 'username' and password == 'password':",
    'client = OpenAI(api_key="YOUR_API_KEY")',
    "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
    "Write to user@example.com or root@localhost; call 555-0123, (212) 555-0199.",
    "The server listens on 0.0.0.0, 127.0.0.1, 192.168.1.100 and 10.20.30.40.",
    "See section 15.12.2.7 of version 10.12.13.14; 1 2 3 4 5 6 7 8 9 10; 14.285714285",
    "From 1990-2000, 2021-2022: 1234567890, 4111 1111 1111 1112, DE89 3704 0044 0532 0130 01",
    "At 10:30:00 std::vector a::b::c, 12:34:56:78, d41d8cd98f00b204e9800998ecf8427e",
    "AC" + "0" * 3 + " SKETCH APACHE2SERVERS e3a82186438a9a2ef80c2a3fdba0182fb9b2d5f1",
)
"""Texts that detectors of secrets or personal data are known to convict."""
