"""`udsbus worker`: a pool of processes that serve, started, watched and started again.

pool.py        the loop: starts, watches, ends, and answers who asks
member.py      one process of the pool, as the pool sees it
restarting.py  when to start again what has ended (pure)
program.py     what runs in such a process
loading.py     what it serves, by a name like `module:app`
beats.py       how it shows that it does not hang
logs.py        what it prints, labelled
stdio.py       a program in any language, which is asked over its stdin
forms.py       how it is spoken to: lines of JSON, or MessagePack (pure)
descendants.py what it has started
answering.py   the other end, for a program in Python
"""
