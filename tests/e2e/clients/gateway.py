"""etcd by its JSON gateway, as OpenStack's client speaks it: keys, transactions, watches, leases, locks, members."""

import os
from urllib.parse import urlparse

from etcd3gw.client import Etcd3Client

endpoint = urlparse(os.environ["ETCDCTL_ENDPOINTS"].split(",")[0])
certificates = {"ca_cert": os.environ["ETCDCTL_CACERT"], "cert_cert": os.environ["ETCDCTL_CERT"], "cert_key": os.environ["ETCDCTL_KEY"]}
client = Etcd3Client(host=endpoint.hostname, port=endpoint.port, protocol=endpoint.scheme, api_path="/v3/", **certificates)

# An authority in the environment would go before the one given here.
client.session.trust_env = False
assert "version" in client.status()
assert client.create("gateway/a", "1")
assert not client.create("gateway/a", "2")
assert client.replace("gateway/a", "1", "2")
assert client.get("gateway/a") == [b"2"]
watcher, cancel = client.watch_prefix("gateway/")
lease = client.lease(ttl=60)
client.put("gateway/b", "leased", lease)
event = next(watcher)
assert event["kv"]["key"] == b"gateway/b", event
cancel()
assert lease.ttl() > 50 and lease.keys() == [b"gateway/b"]
assert [meta["key"] for _, meta in client.get_prefix("gateway/")] == [b"gateway/a", b"gateway/b"]
lease.revoke()
assert client.get("gateway/b") == []
with client.lock("mine", ttl=30) as lock:
    assert lock.is_acquired()
assert client.delete("gateway/a")
print("members", len(client.members()))
