"""How much a service can take: live streams at real speed and REST clients, until an objective breaks.

::

    search ── stage (one number of streams) ── generator processes ── the service
                 └─ server process and metrics, read before and after the measured seconds
"""
