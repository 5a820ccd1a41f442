"""Judges every answer of the machine of revocation by a plain model of what tokens are worth (`revocation_rule`).

The invariants are named as in docs/adr/0036: void tokens (1), finality (2), freshness (3), no false refusal (4), own
changes seen (12), nothing lost (24), events outlive tokens (26).
"""

from collections import Counter

from regional_keystone.log import Put
from regional_keystone.model import RevocationEvent
from regional_keystone.model import Site as SiteRecord
from regional_keystone.record import decode
from tests.model.judge import Violation
from tests.model.revocation_nodes import ALLOW_EXPIRED_S, LIMITS_S
from tests.model.revocation_rule import SECOND, Events, History

GRACE_S = 0.001


class Judge:
    """Knows everything that ever was."""

    def __init__(self, world):
        self.world = world
        self.count = Counter()
        self.turns = self.tokens = 0
        self.history = History()
        self.appended_s = [0.0]  # by number of the entry
        self.installed = {}
        self.own = {}  # site -> Events of its own feed, by number in it
        self.acknowledged = {}  # site -> the last number in it that was durable when somebody was told
        self.promised = []  # (what, audit id) of token revocations that were answered 204
        self._states = {}

    def broken(self, rule, what):
        raise Violation(f"{rule}: {what}")

    # what is durable

    def appended(self, entries):
        """These are about to be the log's next. What is wrong with them ends the run, not the writer alone."""
        try:
            for entry in entries:
                self._appended(entry)
        except Exception as error:
            self.world.loop.failures.append(error)
            raise

    def _appended(self, entry):
        self.appended_s.append(self.world.loop.time())
        self.count["entries"] += 1
        for change in entry.changes:
            if change.table == "sites" and isinstance(change, Put):
                site = decode(SiteRecord, change.row)
                if self._states.get(site.id) != site.state:
                    self._states[site.id] = site.state
                    self.count[f"site {site.state}"] += 1
        owed = self.history.entry(entry)
        if owed:
            self.broken("INV-1", f"entry {entry.number} ends {owed} and revokes nothing")

    def fed(self, site, entries):
        """These are about to be the next of a site's own feed."""
        events = self.own.setdefault(site.name, Events())
        for entry in entries:
            before = None
            for change in entry.changes:
                if change.table == "revocations":
                    event = decode(RevocationEvent, change.row)
                    events.add(entry.number, event, before)
                    before = event
            self.count["own entries"] += 1

    # what is answered

    def issued(self, token):
        self.tokens += 1
        self.count["tokens issued"] += 1
        del token

    def answered(self, site, token, asked, said):
        """A site has answered about this token: `asked` and `said` are what it was when it was asked and answered.

        (position, own number, ticks, time) -> and, in what was said, status and the roles that were shown.
        """
        status = said.status
        self.count[f"answer {said.road} {status}"] += 1
        reasons, shown = self._worth(site, token, asked, said)
        where = f"at {asked.position} to {said.position} by the {said.road} road"
        if status == 200:
            if not shown:
                self.broken("INV-1", f"{site.name} accepts {token.number}, which is void by {reasons[-1]}, {where}")
            if said.roles not in shown:
                self.broken(
                    "INV-1", f"{site.name} shows {sorted(said.roles)} of {token.number}, which has {shown}, {where}"
                )
            self._fresh(site, token, asked)
        elif status == 404:
            if not reasons:
                self.broken("INV-4", f"{site.name} refuses {token.number}, which is good, {where}")
            self.count[f"refused by {reasons[-1]}"] += 1
        elif status == 503:
            if not said.may_be_unsure:
                self.broken("INV-3", f"{site.name} cannot say what {token.number} is worth: {said.body}")
        else:
            self.broken("INV-20", f"{site.name} answers {status} about {token.number}: {said.body}")

    def _worth(self, site, token, asked, said):
        """(why it may be refused, what it may show), each at some moment between question and answer."""
        reasons, shown = [], []
        window = (ALLOW_EXPIRED_S if said.allow_expired else 0) * SECOND
        if said.now >= token.expires_at + window:
            reasons.append("age")
        if asked.now < token.expires_at + window:
            own = self.own.get(site.name)
            position = asked.position
            while position <= said.position:
                state = self.history.at(position)
                worth, ended = state.worth(token), self._ends(site, token, state, asked.now, said.now)
                event = self.history.events.void(token, state, position) or self._late(site, token, position)
                mine = own and own.void(token, state, said.number)
                early = mine or self._answers(site, token, state) or self._brought(site, token, state)
                if isinstance(worth, str) or event or early or ended == "surely":
                    reasons.append(event or early or (worth if isinstance(worth, str) else "its trust's end"))
                elif ended:
                    reasons.append("its trust's end")
                surely = own and own.void(token, state, asked.number)
                if isinstance(worth, frozenset) and not event and not surely and ended != "surely":
                    shown.append(worth)
                position += 1
        return reasons, shown

    def _ends(self, site, token, state, asked, said):
        trust = state.get("trusts", token.trust_id) if token.trust_id else None
        if trust is None or trust.expires_at is None or said < trust.expires_at:
            return ""
        return "surely" if asked >= trust.expires_at else "perhaps"

    def _late(self, site, token, position):
        """What a site issued before it had heard of the end of all tokens ends there, whatever is written in it."""
        if token.site != site.name:
            return None
        for user_id in self._people(token, position):
            for at, _, origin in self.history.causes.get(user_id, ()):
                if token.position < at <= position and origin != site.name:
                    return "late"
        return None

    def _answers(self, site, token, state):
        """Revocations by which a site answers one that came late count before they are durable."""
        if not site.late:
            return None
        events = Events()
        for one in [one for batch in site.late for one in batch]:
            events.add(0, one)
        return events.void(token, state, 0)

    def _brought(self, site, token, state):
        """What the log has revoked counts as soon as a snapshot tells of it, before its other rows show."""
        return self.history.events.void(token, state, site.follower._store.begun)

    def _people(self, token, position):
        trust = self.history.at(position).get("trusts", token.trust_id) if token.trust_id else None
        return {token.user_id, *((trust.trustor_user_id,) if trust else ())}

    def _fresh(self, site, token, asked):
        """By what really was: since when the log holds what the site did not know."""
        limit = LIMITS_S.get(token.scope[0])
        if limit is None:
            return
        lacks = asked.position + 1
        if lacks < len(self.appended_s):
            age = asked.at - self.appended_s[lacks]
            if age > limit + GRACE_S:
                self.broken("INV-3", f"{site.name} accepts {token.number} and lacks an entry that is {age:.1f} s old")
