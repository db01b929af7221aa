import collections
from tests.engine import test_engine_model as t
from udsbus.engine.engine import Engine
C=collections.Counter()
orig=Engine.expire_due
def expire_due(self,now):
    true=[k for k,w in self.keyspace.deadlines._scheduled.items() if w<=now]
    late=[k for k in true if k in self._entries and self._entries[k][2] is not None and self._entries[k][2]>now]
    C['expire_due']+=1; C['looked']+=len(true); C['rescheduled']+=len(late)
    orig(self,now)
Engine.expire_due=expire_due
class TestX(t.TestBus): pass
TestX.settings=t.TestBus.settings
oc=t.Bus.compare
def compare(self,origin,command):
    o=oc(self,origin,command)
    C[type(command).__name__, o.refusal.__name__ if o.refusal else "ok"]+=1
    if o.effects and o.effects[0][1][1]=='expired': C[type(command).__name__,'expired first']+=1
    return o
t.Bus.compare=compare
del t.TestBus
def test_print():
    for k,v in sorted(C.items(),key=str): print(k,v)
