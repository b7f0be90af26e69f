"""The privacy audit: what a trained adapter gives away, how surely, and is the measurement valid.

The data flow::

    population ──► context ──► probe.measure ──► scores.json ──► probe.judge ──► report.json
    members,       adapters,   (model needed)    ids and         (pure)          findings,
    non-members,   token                         numbers                         verdicts
    canaries       statistics

Everything here runs where the private examples lie. ``measure`` sees text and models and returns
numbers; ``judge`` sees those numbers alone, so ``fedllm audit verify`` repeats every verdict
without a model, and nothing downstream of it can hold private text.

**A probe** is one file of ``fedllm.eval.probes`` with a constant ``PROBE`` (`findings.Probe`) and
one line in ``fedllm.eval.probes.catalogue``:

- ``measure(context) -> dict`` with JSON values only (numbers, lists, strings that are no text of a
  sample). What belongs to samples is a list in the order of ``context.population.of(group)``.
  ``None`` where the audit has nothing for the probe.
- ``judge(scores, design) -> Judgement``: findings, figures. Pure and deterministic; random draws
  come from ``derive_seed(design.seed, purpose)``.

**The context** (`context.Context`) gives a probe

- ``population``: `Sample` s by group: ``member`` (trained on), ``nonmember`` (drawn like them, not
  trained on), ``canary`` (``included`` by a coin flip or not), ``reference`` (never inserted
  anywhere); each with ``example``, ``client``, ``repetitions``; and the ``public`` examples.
- ``targets``: `subject.Target` s, the adapters under audit: global ones by round, clients' updates.
  ``primary`` ones decide the verdict, the others show how leakage develops.
- ``statistics(target, examples)``: the shared token-statistics pass (`passes.TokenStatistics`), one
  forward pass per example and adapter however many probes ask; ``target=None`` is the base model.
  Cached by content, in memory and on disk (the cache is as private as the shard).
- ``model(target)``: a context manager with the model to generate with; ``tokenizer``,
  ``tokenised(examples)``; ``read(model, tokens)`` for adapters that are no targets.
- ``settings`` (sizes of the profile), ``design`` (what ``judge`` will know), ``watcher``.

**A finding** is a number with bounds, a sentence, and a metric name that gates refer to
(`verdicts.LIMITS` has the default limit of every gated metric). Its ``low`` and ``high`` are
one-sided 95 % bounds each: PASS when ``high`` is within the limit (an equivalence test: "no effect"
is never a large p value), FAIL when ``low`` is above it, else INCONCLUSIVE; INVALID when a control
it ``needs`` does not hold. Where a finding is the worst of several (attacks, adapters, clients),
``low`` is taken at 95 % over all of them (Bonferroni, `findings.family_level`); ``high`` needs
no correction: "none exceeds the limit" is claimed only if each does not (intersection-union).
Findings that are not ``decisive`` (other ways of asking, single clients) have too few samples to
clear anybody and raise the alarm: FAIL where ``low`` is above the limit, no PASS where the value
is. What reproduces texts is counted by `memorised`, exactly, at any number of samples.

Every gate of a probe that was asked for has to answer: without a value, or with a control that was
not measured, it is INCONCLUSIVE and says what is missing. A gate that was left out (its limit is
null, its probe not chosen) is named in the verdict's own sentence.

**Controls** (`controls`) gate findings: ``blind`` (a classifier that sees text alone must not tell
members from non-members), ``base`` (nor must the base model), ``permutation`` (nor must the attack
on shuffled labels), ``positive`` (a small adapter trained to overfit must be caught) and
``negative`` (a fresh adapter must equal the base).
"""
