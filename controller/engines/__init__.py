"""The real engines as plain processes: Cassandra, ZooKeeper, memcached and HAProxy on addresses of the loopback.

For `rkctl up --engines` and for tests. Everything here blocks; from an event loop call it in a thread.
"""
