"""Local hooks: terms and corrections in a client's training, with a half at the server.

A hook is a class with keyword settings whose methods a client's round calls in this order::

    begin(local)            the sent adapter is installed; local.down and local.memory are there
    loss(loss, batch)       every micro-batch: returns what is minimised instead
    grad(step)              every optimiser step, gradients complete and not clipped yet
    end() -> Returned       the adapter is trained: what is sent beside it, what is remembered

and whose server half is called with every hook's own memory, an argument that goes in and out::

    broadcast(memory, client) -> tensors     before a round: sent down to the client
    check(extras, sent)                      refuses extras of a wrong kind
    reduce(extras, memory, clients) -> memory    after the rule: what arrived, by client

``hook.Hook`` does nothing at each, so that a hook writes what it needs. The object lives for one
round; everything that must survive it goes through memory. Clients' memory lies in
``shards/<client>/memory/<round>/`` and never leaves the client.
"""
