"""What must hold for the whole service and not for one worker: small, kept in one place, asked over a local socket.

::

    worker ── KeeperClient ──(socketpair, inherited)── Link ── Keeper, in the supervisor
    one process ── KeeperClient ─────────────────────────────── Keeper, in the same process

`topics` has what can be asked, each with the types of its question and answer. `keeper.Keeper` answers for the whole service
and can ask the workers in turn: one of them, or all. `client` is a worker's end, with the same Protocol for one process and for
several. `link` carries frames and knows no topic. Nothing here is asked once a frame of sound.

How to add a question to the keeper

1. `topics.py`: two subclasses of `Message` (or `Nothing`) for what is asked and answered, and a `Topic` that joins them under
   a name. Raise `VERSION` when a message that exists already changes its meaning.
2. A pure object that knows the answer, in a module of its own (`places.py` is one), told by the keeper when a worker dies if
   it counts what workers hold.
3. `keeper.py`: ``self.desk.add(TOPIC, handler)`` in `Keeper.__init__`. A handler takes the number of the worker that asks (0
   where there is one process) and the question, and returns the answer, or an awaitable of it where it has to ask a worker.
   An answer says no with its fields; a handler that raises is a fault of ours.
4. The worker: ``answer = await services.keeper.ask(TOPIC, Question(...))``. It raises `Unavailable` (503) where the supervisor
   is gone or does not answer in time; say in the caller what that means there: refuse, or do without. ``tell`` waits for no
   answer.

A question to workers is added in the same way to the worker's own desk (``services.keeper.desk.add``), and put by
`Keeper.ask_worker` or `Keeper.ask_all`.
"""
