from __future__ import annotations

import time

import pytest

from selfaug.monitoring import redaction
from selfaug.monitoring.redaction import redacted


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Write to anna.maier+x@mail.example.org please", "Write to [email] please"),
        ("call +49 (0)89 1234-5678 now", "call [number] now"),
        ("card 4111 1111 1111 1111.", "card [number]."),
        ("IBAN DE89 3704 0044 0532 0130 00 ok", "IBAN [iban] ok"),
        ("host 192.168.10.4 and 2001:db8:0:0:0:ff00:42:8329", "host [address] and [address]"),
        ("https://user:hunter22@example.org/x", "https://[credentials]@example.org/x"),
        ("use sk-abcdefghijklmnopqrstuvwx today", "use [key] today"),
        ("password: correct-horse, thanks", "[key], thanks"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-def", "[key]"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY----- end",
            "[key] end",
        ),
        ("電話は03-1234-5678です", "電話は[number]です"),
        ("电话13812345678请联系", "电话[number]请联系"),
        ("身份证11010119900307423X。", "身份证[number]。"),
        ("010-1234-5678입니다", "[number]입니다"),
        ("IPは192.168.1.10です", "IPは[address]です"),
        ("口座DE89370400440532013000です", "口座[iban]です"),
        ("Tél. : 06\u00a012\u00a034\u202f56\u202f78", "Tél. : [number]"),
        ("０３－１２３４－５６７８、１２円", "[number]、１２円"),
        ("Tel. 03–1234–5678, 2019–2020 (56–50)", "Tel. [number], 2019–2020 (56–50)"),
        ("Smith,4111111111111111,5551234567", "Smith,[number],[number]"),
        ("[4111111111111111,5500 0000 0000 0004,+49 89 123456]", "[[number],[number],[number]]"),
        ("Konto-Nr.1234567890, Tel.030 1234567", "Konto-Nr.[number], Tel.[number]"),
        ("4711,0171 234567,030-123456,42,0171 234 567", "4711,[number],[number],42,[number]"),
        ("42,089/45 67 12,7,030 123456,8,01 23 45 67 89", "42,[number],7,[number],8,[number]"),
        ("7,123-45-6789,8,555-123-4567", "7,[number],8,[number]"),
        ("42,12.03.1980,0171 234567,1980-03-12", "42,[number],[number],[number]"),
        (",4111111111111111\n,5551234567", ",[number]\n,[number]"),  # first cells are empty
        ("π≈3,1415927", "π≈3,[number]"),  # as a cell would be
    ],
)
def test_what_identifies_is_replaced(text: str, kept: str) -> None:
    assert redacted(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "Revenue was 1,250.5 million in 2024, up 12.5 % from 2023.",
        "Profit: 1,234,567.89 12,345.67 (1,250.00) 0,8415 in 2024",
        "What is the capital of Peru?",
        "Version 3.11.7 of section 4.2.1",
        "p<.0000001, loss .0123456, (.1234567) and $1,234.5678901",
        ".0000001 or p<,0000001",
        "1,250-1,300, 1,045-1,060, 0,05 100 200, 2,050 980 1,200",
        "The token count is 512.",
    ],
)
def test_what_is_asked_about_stays(text: str) -> None:
    assert redacted(text) == text


SECRETS = {
    "my password is swordfish": "[key]",
    "and our passwd was Swordfish, then": "and [key], then",
    "X: Bearer ABCDEFabcdef_-xyz": "X: [key]",
    '{"password": "hunter22!"}': '{"[key]"}',
    '{"a": 1, "client_secret": "correct horse", "b": 2}': '{"a": 1, "client_[key]", "b": 2}',
    r"{\"password\": \"hunter22\", \"a\": 1}": r'{\"[key]", \"a\": 1}',  # with the sign before the quote
    'accessToken: "ab c\\"defg", b': 'access[key]", b',
    "passphrase = 'correct horse battery'.": "[key]'.",
    "OPENAI_API_KEY=abcd1234efgh": "OPENAI_[key]",
    "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG": "AWS_SECRET_[key]",
    "DB_PASS=hunter and more": "DB_[key] and more",
    "access_token: abcdefgh": "access_[key]",
    "client_secret=abcdefgh": "client_[key]",
    "db_password = hunter22": "db_[key]",
    "secretKey => abcdefg": "[key]",
    "Encryption key: abcdefg": "[key]",
    "pwd: hunter22": "[key]",
    "password:hunter22": "[key]",
    "https://example.org/?token=abcd1234 ok": "https://example.org/?[key] ok",
    "my password is hunter22": "my [key]",
    "My password is: swordfish": "[key]",
    "The password is: 1234, or the password is 1234": "The [key], or the [key]",
    "The token is: 123456 and": "The [key] and",
    "The password is: hunter22, le mot de passe est : hunter22": "The [key], le [key]",
    "my password was Tr0ub4dor&3, once": "my [key], once",
    "Das Passwort lautet Sommer2024! heute": "Das [key] heute",
    "password hunter22 is wrong": "[key] is wrong",
    "mysql --password hunter --token abcdef": "mysql --[key] --[key]",
    'curl -H "Authorization: Bearer abc.def-ghi"': 'curl -H "[key]"',
    "Authorization: Basic dXNlcjpwYXNz": "[key]",
    "with bearer abc123def456": "with [key]",
    "github_pat_11ABCDEFG0abcdefghijkl": "[key]",
    "ghs_abcdefghijklmnopqrstuvwxyz": "[key]",
    "KEY_gho_abcdefghijklmnopqrstuvwxyz": "KEY_[key]",
    "AIzaSyA1234567890abcdefghijklmnopqrs": "[key]",
    "AKIAIOSFODNN7EXAMPLE": "[key]",
    "hf_abcdefghijklmnopqrst": "[key]",
    "SG.abcdefghijklmnopq.abcdefghij": "[key]",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\nx\n-----END PGP PRIVATE KEY BLOCK----- end": "[key] end",
    "redis://:pw@host": "redis://[credentials]@host",
    "postgres://user:p@ss@host/x": "postgres://[credentials]@host/x",
    "ping 2001:db8::1 now": "ping [address] now",
    "fe80::1ff:fe23:4567:890a": "[address]",
    "[fd00::1]:80": "[[address]]:80",
    "2001:db8:1:2::/64": "[address]/64",
    "::ffff:192.168.10.4": "::ffff:[address]",
    "00:1a:2b:3c:4d:5e": "[address]",
    "mot de passe : soleil": "[key]",
    "le mot de passe est hunter22": "le [key]",
    "contraseña: girasol": "[key]",
    "senha: abacaxi": "[key]",
    "hasło: abcdef": "[key]",
    "şifre: abcdef": "[key]",
    "密码：abcd1234，谢谢": "[key]，谢谢",
    "密码是：abcd1234，好": "[key]，好",
    "パスワードはhunter22です": "[key]です",
    "비밀번호는 hunter22입니다": "[key]입니다",
    "密码:abcd1234吗": "[key]吗",
    "token：ab12cd34，好": "[key]，好",
    '{"密码": "你好世界"}': '{"[key]"}',
}
PROSE = [
    "The secret ingredient is salt",
    "What is the secret of success?",
    "secret sharing schemes",
    "token embeddings",
    "The token is too long.",
    "max_tokens: 1024, min_tokens=128",
    "Tokens: 512 in, 128 out",
    "The password is case-sensitive.",
    "The password is: correct",
    "The secret is: 100% cotton",
    "The token is: 2024 and the secret is 2024.",
    "The password is wrong!",
    "Password requirements: at least twelve characters",
    "API keys and passwords are rotated",
    "a bearer of bad news",
    "bearer bonds are rare",
    "our secret is patience",
    "PASS: test_redaction",
    "Passing is easy: try",
    "a boarding pass: gate 12",
    "hf_hub_download takes a name",
    "skateboarding championship",
    "x[1::2] and x[100::2]",
    "std::abs, face::add and feed::decade",
    "The meeting is at 12:30:45",
    "see http://example.org:8080/a",
    "パスワードは秘密です",
    "什么是Token：模型处理文本的最小单位吗？",
    "Secret：如何申请",
    "パスワード：8文字以上で設定してください。",
    "비밀번호: 8자 이상으로 하세요",
    "最大token为4096，怎么设置？",
    "最大token为128k，怎么设置？",
    "token是1000个",
    "la contraseña es sensible a mayúsculas",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_found_in_the_forms_that_they_are_written_in(text: str) -> None:
    assert redacted(text) == SECRETS[text]


@pytest.mark.parametrize("text", PROSE)
def test_sentences_about_secrets_stay(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    "part",
    [
        "password",
        "password is ",
        "password is a",
        "token a",
        "token: ",
        'password="',
        'password="\\',
        "password is a-",
        "--password ",
        "-",
        "authorization: basic ",
        "bearer a1",
        "github_pat_",
        "eyJ-",
        "sk-",
        "2001:0:",
        "2001::",
        "f:",
        "://:",
        "://a",
        "-----BEGIN PRIVATE KEY-----",
        "-----END ",
        "+1 (",
        "\\",
        "key ",
        "１２３４５６７a",
        "1,1234567a",
        "1,+",
        "1,030 1",
        "1,01 23 45 67",
        "password is:",
        "secret is 1.",
        "密码：a1",
    ],
)
def test_no_prompt_holds_up_the_server(part: str) -> None:
    """What is kept of a text takes less than 50 ms, whatever it is made of."""
    for before, after in (
        ("", ""),
        ("password is ", "x"),
        ('password: "', "\n"),
        ("://", "@"),
        ("2001:", "::"),
    ):
        text = f"{before}{part * (20_000 // len(part))}"[: 20_000 - len(after)] + after
        times = []
        for _ in range(3):
            began = time.thread_time()
            redacted(text)
            times.append(time.thread_time() - began)
        assert min(times) < 0.05


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "%",
        "a.",
        "password ",
        " ",
        "eyJ-",
        "sk-",
        "://",
        "a@",
        "1",
        "1 ",
        "-----BEGIN ",
        "A",
        "a:",
        "AB12",
    ],
)
def test_no_text_takes_long(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In proportion to its length: were each character looked at from each other one, it would be minutes."""
    monkeypatch.setattr(redaction, "MOST_CHARACTERS", 10**9)
    for before, after in (("", ""), ("password", "x"), ("password is", "x"), ("a@", "!"), ("eyJ", "!")):
        text = f"{before}{part * (80_000 // len(part))}{after}"
        began = time.thread_time()
        redacted(text)
        assert time.thread_time() - began < 1.6


def test_of_a_long_text_the_beginning_is_kept_and_nothing_that_was_cut_in_two() -> None:
    text = f"a@b.example {'word ' * 3996}anna.maier@mail.example.org and more"
    assert text[:20_000].endswith(" anna.mai")
    kept = redacted(text)
    assert kept.startswith("[email] word word")
    assert kept.endswith("…")
    assert "anna" not in kept
    assert len(kept) < 20_000
    exactly = "word " * 4000
    assert redacted(exactly) == exactly
