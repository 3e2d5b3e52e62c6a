"""Machines that measure in turn, though each is driven by a thread of its own."""

import threading


class Turns:
    """First all members arrive; then each in the order given has its turn, again and again. One
    that leaves, whenever it does, is not waited for."""

    def __init__(self, members):
        self.members, self.arrived, self.whose = list(members), set(), 0
        self.changed = threading.Condition()

    def of(self, member):
        return Turn(self, member)

    def take(self, member):
        with self.changed:
            self.arrived.add(member)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.arrived >= set(self.members)
                                  and self.members[self.whose] == member)

    def give(self, member):
        with self.changed:
            if self.members[self.whose] == member:
                self.whose = (self.whose + 1) % len(self.members)
                self.changed.notify_all()

    def leave(self, member):
        with self.changed:
            if member not in self.members:
                return
            at = self.members.index(member)
            self.members.remove(member)
            if at < self.whose:
                self.whose -= 1
            self.whose %= max(1, len(self.members))
            self.changed.notify_all()


class Turn:
    """`with` it, nobody else measures."""

    def __init__(self, turns, member):
        self.turns, self.member = turns, member

    def __enter__(self):
        self.turns.take(self.member)

    def __exit__(self, *_error):
        self.turns.give(self.member)
