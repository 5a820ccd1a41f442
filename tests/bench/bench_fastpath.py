"""Prints what one hit of the fast path costs, beside the number of live revocations: `python tests/bench/bench_fastpath.py`."""

import time

from regional_keystone.fastpath import Facts, FastPath, Verdict
from regional_keystone.keys import KeyRing, digest
from regional_keystone.revocation import Revocation, RevocationIndex, Traits
from regional_keystone.signing import Signers
from regional_keystone.token import Named, Principal, ProjectScope, Token

NOW = 1_700_000_000_000_000
HOUR = 3_600_000_000


class Known:
    """Knowledge that stands still."""

    def __init__(self, revocations: int) -> None:
        self.ring = KeyRing({0: b"A" * 43 + b"=", 1: b"E" * 43 + b"="})
        self.signers = Signers()
        self.index = RevocationIndex()
        self.position = 0
        self.allow_expired_us = None
        for number in range(revocations):
            traits = ({"audit_id": f"a{number}"}, {"audit_chain_id": f"c{number}"}, {"user_id": f"u{number}"})[
                number % 3
            ]
            self.index.add(Revocation(issued_before=NOW, revoked_at=NOW, **traits), NOW + HOUR)

    def age_s(self) -> float:
        return 0.0

    def read_keys_again(self) -> bool:
        return False

    def accepts_key(self, key_id: str) -> bool:
        return key_id in self.ring.ids

    def may_lack(self, made_at):
        return False

    def may_lack_key(self, sealed_at: int) -> bool:
        return False

    def note_issue(self, user_id: str, at: int) -> None:
        pass


def verdict(text: str, number: int, key: str, facts: Facts) -> Verdict:
    audit = f"{number:022}"
    token = Token(
        user_id="u",
        methods=("password",),
        scope=ProjectScope("p"),
        expires_at=NOW + HOUR,
        issued_at=NOW,
        audit_ids=(audit,),
    )
    traits = Traits(
        issued_at=NOW,
        expires_at=NOW + HOUR,
        audit_id=audit,
        user_id="u",
        user_domain_id="d",
        project_id="p",
        role_ids=("r", "s"),
    )
    return Verdict(
        digest=digest(text), key=key, traits=traits, facts=facts, principal=Principal(token=token, user=facts.who),
        head=b'{"token":{"methods":["password"],"user":', tail=b',"audit_ids":["' + audit.encode() + b'"]',
        not_before=0, may=(True, True, True, True),
    )  # fmt: skip


def measure(tokens: int, revocations: int, rounds: int = 3) -> tuple[float, float]:
    known = Known(revocations)
    path = FastPath(known)
    facts = Facts(
        ("u", ProjectScope("p")), frozenset(), 0, who=Named("u", "u"), home_id="d", project=None, domain=None, roles=(),
        user=b'{"id":"u"}', rest=b',"roles":[]', catalog=b',"catalog":[' + b"x" * 4000 + b"]",
    )  # fmt: skip
    texts = [f"gAAAAA{number:0176}A" + "A" for number in range(tokens)]
    for number, text in enumerate(texts):
        assert path.remember(verdict(text, number, known.ring.key_ids[0], facts))
    first = best = 1e9
    for turn in range(rounds + 1):
        begun = time.perf_counter()
        for text in texts:
            assert path.ask(texts[0], text, True, NOW) is not None
        cost = (time.perf_counter() - begun) / tokens * 1e6
        first, best = (cost, best) if turn == 0 else (first, min(best, cost))
    return first, best


if __name__ == "__main__":
    for revocations in (0, 1_000, 50_000):
        first, best = measure(20_000, revocations)
        print(f"{revocations:>7} revocations: {best:5.2f} us a hit; {first:5.2f} us right after one was added")
