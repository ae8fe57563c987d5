"""What the cluster says of a pod or Job becomes a sentence, and what to do about it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbtrain.backends.kubernetes import names
from nbtrain.backends.kubernetes.errors import Unreachable
from nbtrain.backends.kubernetes.explain import explain, explain_job, failures, in_order
from nbtrain.backends.kubernetes.failing import TRIES, Failing, head_shown
from nbtrain.backends.kubernetes.watch import finished, placed
from nbtrain.runtime.events import Phase, Started, encode


def pod(status=None, *, worker=1, node="node1", uid="p", created="2026-01-01T00:00:00Z", **meta):
    labels = {names.ROLE: "head" if worker is None else "worker"}
    if worker is not None:
        labels[names.INDEX] = str(worker)
    container = {
        "name": "head" if worker is None else "worker",
        "image": "registry.example/train:1",
        "resources": {"limits": {"memory": "2Gi"}},
    }
    return {
        "metadata": {"uid": uid, "labels": labels, "creationTimestamp": created, **meta},
        "spec": {"containers": [container], **({"nodeName": node} if node else {})},
        "status": {"phase": "Pending", **(status or {})},
    }


def event(reason, message="", *, uid="p", at="2026-01-01T00:00:00Z"):
    return {
        "involvedObject": {"uid": uid},
        "reason": reason,
        "message": message,
        "lastTimestamp": at,
    }


def waiting(reason, message=""):
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "worker", "state": state}]}


def ended(code, reason="Error", message="", name="worker"):
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    which = "initContainerStatuses" if name == "install" else "containerStatuses"
    return {"phase": "Failed", which: [{"name": name, "state": state}]}


def unscheduled(message):
    conditions = [{"type": "PodScheduled", "status": "False", "message": message}]
    return {"conditions": conditions}


# -- pods that wait -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "reason", "fix"),
    [
        ("", "waits for the scheduler", ""),
        (
            "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2"
            " No preemption victims found for incoming pod.",
            "no node takes it yet: 0/2 nodes are available: 2 Insufficient cpu",
            "Ask for less",
        ),
        (
            "0/2 nodes are available: 1 node(s) had untolerated taint {gpu: true}, 1 node(s)"
            " didn't match Pod's node affinity/selector. preemption: none",
            "no node takes it yet: 0/2 nodes are available: 1 node(s) had untolerated taint"
            " {gpu: true}, 1 node(s) didn't match Pod's node affinity/selector",
            "--tolerations",
        ),
        (
            "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
            "no node takes it yet: 0/2 nodes are available: pod has unbound immediate"
            " PersistentVolumeClaims. not found",
            "--storage-class",
        ),
    ],
)
def test_a_pod_without_a_node_has_the_schedulers_own_reason(message, reason, fix):
    found = explain(pod(unscheduled(message), node=""))
    assert (found.worker, found.phase, found.reason) == (1, "pending", reason)
    assert fix in found.fix
    assert not found.stuck


def test_a_cluster_that_grows_says_so():
    events = [event("FailedScheduling", "0/2 nodes"), event("TriggeredScaleUp")]
    found = explain(pod(unscheduled("0/2 nodes"), node=""), events)
    assert found.reason == "the cluster adds a node for it"


def test_pulling_and_starting_are_told():
    one = event("Scheduled")
    two = event("Pulling", 'Pulling image "registry.example/train:1"', at="2026-01-01T00:00:01Z")
    three = event("Pulled", at="2026-01-01T00:00:02Z")
    status = waiting("ContainerCreating")
    assert explain(pod(status), [one]).reason == "starting"
    assert explain(pod(status), [two, one]).reason == "pulling the image registry.example/train:1"
    assert explain(pod(status), [three, two, one]).reason == "starting"
    assert explain(pod(status)).host == "node1"


def test_events_of_other_pods_do_not_count():
    others = [event("FailedMount", "no", uid="other")]
    assert explain(pod(waiting("ContainerCreating")), others).reason == "starting"


def test_installing_packages_is_told():
    status = {"initContainerStatuses": [{"name": "install", "state": {"running": {}}}]}
    found = explain(pod(status), [event("Started")])
    assert "installing packages" in found.reason


@pytest.mark.parametrize(
    ("message", "reason", "stuck"),
    [
        ('MountVolume.SetUp failed for volume "data-0" : secret "keys" not found',
         "there is no secret keys in the namespace", True),
        ('Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) x',
         "its volume is still attached to another node", False),
        ("MountVolume.MountDevice failed: rpc error: timed out", "timed out", False),
    ],
)  # fmt: skip
def test_a_volume_that_can_not_be_mounted(message, reason, stuck):
    found = explain(pod(waiting("ContainerCreating")), [event("FailedMount", message)])
    assert reason in found.reason
    assert found.phase == "pending"
    assert found.stuck == stuck


# -- containers that can't start ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "said", "reason", "fix", "stuck"),
    [
        ("ErrImagePull", 'Failed to pull image "x": rpc error: code = NotFound desc = failed to'
         ' resolve reference "x": x: not found', "there is no image registry.example/train:1",
         "--image", True),
        ("ErrImagePull", "failed to authorize: 401 Unauthorized", "it wants credentials",
         "--image-pull-secret", True),
        ("ErrImagePull", "failed to pull: dial tcp 10.0.0.1:443: i/o timeout", "can't be pulled",
         "reachable", False),
        ("InvalidImageName", "", "is not the name of an image", "--image", True),
        ("CreateContainerConfigError", 'secret "keys" not found', "there is no secret keys",
         "Create it", True),
        ("CreateContainerConfigError", "container has runAsNonRoot and image will run as root",
         "will run as root", "%k8s_image build", True),
        ("RunContainerError", 'exec: "python3": executable file not found in $PATH',
         "the image has no python3", "Take an image with Python", True),
    ],
)  # fmt: skip
def test_a_container_that_can_not_start(state, said, reason, fix, stuck):
    found = explain(pod(waiting(state, said)))
    assert found.phase == "pending"
    assert reason in found.reason
    assert fix in found.fix
    assert found.stuck == stuck


def test_a_pull_that_failed_again_is_stuck_with_the_reason_of_the_failure():
    status = waiting("ImagePullBackOff", 'Back-off pulling image "registry.example/train:1"')
    failed = event("Failed", 'Failed to pull image "x": dial tcp: i/o timeout')
    again = event("Failed", "Error: ErrImagePull")
    found = explain(pod(status), [failed, again])
    assert "i/o timeout" in found.reason
    assert found.stuck
    missing = event("Failed", "Failed to pull image: manifest unknown")
    assert "there is no image" in explain(pod(status), [missing]).reason


# -- pods that ended ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "fix"),
    [
        (ended(137, "OOMKilled"), "out of memory (it has 2Gi)", "Ask for more with --memory."),
        (ended(139), "killed by signal 11", ""),
        (ended(2, message="a\nlast words\n"), "exit code 2: last words", ""),
        ({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource:"
          " memory."}, "it was evicted: The node was low on resource: memory.", "replaced"),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, "its time was over (--max-time)", ""),
        ({"phase": "Failed", "reason": "NodeLost"}, "NodeLost", ""),
        (ended(1, message="ERROR: No matching distribution found for tensorflow==9\n",
               name="install"),
         "the packages could not be installed: ERROR: No matching distribution found for"
         " tensorflow==9", "%k8s_image build"),
        ({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True",
          "reason": "PreemptionByScheduler"}]}, "a pod of a higher priority took its place",
         "replaced"),
    ],
)  # fmt: skip
def test_a_pod_that_failed_says_why(status, reason, fix):
    found = explain(pod(status))
    assert (found.phase, found.reason) == ("gone", reason)
    assert fix in found.fix


def test_a_pod_of_a_dead_node_is_gone_while_it_terminates():
    conditions = [
        {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    ]
    status = {"phase": "Running", "conditions": conditions}
    found = explain(pod(status, deletionTimestamp="2026-01-01T00:01:00Z"))
    assert (found.phase, found.reason) == ("gone", "its node is gone or does not answer")


def test_a_pod_whose_node_does_not_answer_is_gone_before_the_cluster_ends_it():
    def running(ready, containers):
        conditions = [
            {"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": containers}
        ]  # fmt: skip
        return explain(pod({"phase": "Running", "conditions": conditions}))

    assert (running("True", "True").phase, running("False", "False").phase) == ("running",) * 2
    assert running("False", "True").phase == "gone"
    assert running("False", "True").reason == "its node does not answer"


def test_a_head_whose_volume_is_on_a_node_that_is_away_says_so():
    message = (
        "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1"
        " node(s) had untolerated taint(s)"
    )
    reason = explain(pod(unscheduled(message), worker=None, node="")).reason
    assert reason.startswith("its volume is on a node that is away")


def test_running_and_done():
    assert explain(pod({"phase": "Running"})).phase == "running"
    assert explain(pod({"phase": "Succeeded"})).reason == "done"


# -- pods that fail again and again ---------------------------------------------------------------

EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}


def at(second, status):
    """Return the status of a pod that ended so many seconds after its head asked for workers."""
    ready = {"type": "Ready", "status": "False"}
    ready["lastTransitionTime"] = f"2026-01-01T00:01:{second:02}Z"
    return {**status, "conditions": [ready]}


HEAD_ASKED = 1767225660.0  # 2026-01-01T00:01:00Z
ASKED = Phase(worker=1, phase="waiting", seq=0, time=HEAD_ASKED)
BEGUN = Started(workers=2, epochs=1, seq=1, time=HEAD_ASKED + 1)


class Directory:
    """A run directory with these events."""

    def __init__(self, *events):
        self.text = b"".join(encode(event).encode() + b"\n" for event in events)
        self.reads = 0

    def read(self, _path):
        self.reads += 1
        yield self.text + b'{"kind": "pha'


def told(directory, *statuses):
    """Return what is told of a worker whose pods ended so, one after the other."""
    pods = [pod(status, uid=str(number)) for number, status in enumerate(statuses)]
    return Failing(lambda: directory).shown(explain(pods[-1]), pods)


@pytest.mark.parametrize(
    ("status", "reason", "fix"),
    [
        (ended(137, "OOMKilled"), "out of memory (it has 2Gi)", "--memory"),
        (EVICTED, "it was evicted: low on memory", "kubectl describe nodes"),
        (ended(1, message="SyntaxError"), "exit code 1: SyntaxError", "--image"),
        (ended(1, message="agent: no head at t:8476: timed out"), "no head at", "doctor --probe"),
    ],
)
def test_a_worker_whose_pods_fail_before_it_ever_trains_is_stuck(status, reason, fix):
    first, *rest = (at(second, status) for second in (3, 18, 44))
    assert not told(Directory(ASKED), first).stuck
    assert not told(Directory(ASKED), first, rest[0]).stuck
    found = told(Directory(ASKED), first, *rest)
    assert found.stuck
    assert (found.worker, found.phase) == (1, "gone")
    assert reason in found.reason
    assert "3 of its pods have failed" in found.reason
    assert fix in found.fix


OUT_OF_MEMORY = [at(second, ended(137, "OOMKilled")) for second in (3, 18, 44, 59)]


def test_a_worker_that_has_trained_is_never_stuck_by_pods_that_fail():
    directory = Directory(ASKED, BEGUN)
    pods = [pod(status, uid=str(number)) for number, status in enumerate(OUT_OF_MEMORY)]
    failing = Failing(lambda: directory)
    for _ in range(3):
        assert not failing.shown(explain(pods[-1]), pods).stuck
    assert directory.reads == 1  # events may be many


def test_a_worker_is_not_given_up_while_nobody_knows_whether_it_has_trained():
    def away():
        raise Unreachable("the API server is away")

    pods = [pod(status) for status in OUT_OF_MEMORY]
    last = explain(pods[-1])
    assert failures(pods) > TRIES
    for files in (away, lambda: None, Directory):  # the last head waits for its payload
        assert not Failing(files).shown(last, pods).stuck


def test_pods_that_looked_for_a_head_before_there_was_one_do_not_count():
    late = Directory(Phase(worker=1, phase="waiting", seq=0, time=HEAD_ASKED + 10))
    sought = [at(second, ended(1, message="agent: no head at t")) for second in (3, 18, 44, 59)]
    assert not told(late, *sought[:3]).stuck
    assert told(late, *sought).stuck
    assert told(late, *OUT_OF_MEMORY[:3]).stuck  # that no head can help


def heads(*lengths):
    """Return a head's pods that failed after so many seconds each."""
    made = []
    for number, length in enumerate(lengths):
        status = ended(1, message="no module named encodings")
        finished = datetime.fromtimestamp(HEAD_ASKED + length, UTC).isoformat()
        (container,) = status["containerStatuses"]
        container["state"]["terminated"] |= {
            "startedAt": "2026-01-01T00:01:00Z",
            "finishedAt": finished.replace("+00:00", "Z"),
        }
        made.append(pod(status, uid=str(number), worker=None))
    return made


def test_a_head_whose_pods_all_fail_at_once_is_stuck():
    pods = heads(1, 0, 29)
    assert not head_shown(explain(pods[-1]), pods[:2]).stuck
    found = head_shown(explain(pods[-1]), pods)
    assert (found.worker, found.phase, found.stuck) == (None, "gone", True)
    assert found.reason == (
        "exit code 1: no module named encodings; 3 of its pods have failed, and none was at work"
        " for 30 s"
    )
    assert "--image" in found.fix


def test_a_head_that_was_at_work_is_tried_again():
    pods = heads(31, 1, 1)
    assert not head_shown(explain(pods[-1]), pods).stuck


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Running"},
        {"phase": "Succeeded"},
        {"phase": "Failed", "reason": "NodeLost"},
        {"phase": "Failed", "reason": "OutOfcpu"},
        {**ended(137), "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]},
        {**ended(137), "reason": "Terminated", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}]},
    ],
)  # fmt: skip
def test_pods_that_were_taken_away_or_are_well_have_not_failed_by_themselves(status):
    assert failures([pod(status)]) == 0


def test_a_pod_that_failed_and_says_not_when_failed_when_it_was_made():
    made = pod(ended(1, message="agent: no head"), created="2026-01-01T00:01:00Z")
    assert (failures([made], HEAD_ASKED), failures([made], HEAD_ASKED + 1)) == (1, 0)


# -- Jobs and the whole ---------------------------------------------------------------------------


def job(role, completions=2, *conditions):
    return {
        "metadata": {"uid": role, "labels": {names.ROLE: role}},
        "spec": {"completions": completions},
        "status": {"conditions": [{"type": c, "status": "True"} for c in conditions]},
    }


FORBIDDEN = 'Error creating: pods "a-0-x" is forbidden: '


@pytest.mark.parametrize(
    ("message", "reason", "stuck"),
    [
        (FORBIDDEN + "exceeded quota: small, requested: requests.cpu=2, used: requests.cpu=3,"
         " limited: requests.cpu=4", "the namespace's quota small has no room", False),
        (FORBIDDEN + 'violates PodSecurity "restricted:latest": hostPath volumes',
         "Pod Security level does not admit", True),
        (FORBIDDEN + "maximum memory usage per Container is 1Gi, but limit is 2Gi",
         "maximum memory usage per Container is 1Gi", True),
        (FORBIDDEN + 'error looking up service account ml/x: serviceaccount "x" not found',
         'serviceaccount "x" not found', True),
    ],
)  # fmt: skip
def test_pods_that_the_namespace_does_not_admit_are_known_from_events_alone(message, reason, stuck):
    events = [event("FailedCreate", message, uid="worker")]
    found = {p.worker: p for p in placed([job("head", 1), job("worker")], [], events)}
    assert set(found) == {None, 0, 1}
    assert found[None].reason == "waits for its pod"
    for worker in (0, 1):
        assert reason in found[worker].reason
        assert found[worker].fix
        assert found[worker].stuck == stuck


def test_a_refusal_before_a_success_is_past():
    events = [
        event("SuccessfulCreate", uid="worker", at="2026-01-01T00:00:02Z"),
        event("FailedCreate", FORBIDDEN, uid="worker", at="2026-01-01T00:00:01Z"),
    ]
    assert explain_job(job("worker"), events) == ("", "", False)


def test_the_newest_pod_of_a_worker_counts():
    old = pod({"phase": "Failed", "reason": "NodeLost"}, worker=0, uid="old")
    new = pod({"phase": "Running"}, worker=0, uid="new", created="2026-01-01T00:05:00Z")
    head = pod({"phase": "Running"}, worker=None, uid="head")
    found = {
        p.worker: p.phase for p in placed([job("head", 1), job("worker", 1)], [new, old, head], [])
    }
    assert found == {None: "running", 0: "running"}


def test_why_a_lost_pod_is_not_replaced_is_told_with_it():
    lost = pod({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, worker=0)
    events = [event("FailedCreate", FORBIDDEN + "exceeded quota: q, used up", uid="worker")]
    (found,) = placed([job("worker", 1)], [lost], events)
    assert "evicted" in found.reason
    assert "can't be replaced: the namespace's quota q" in found.reason


def test_ended_jobs_leave_their_workers_gone():
    (found,) = placed([job("worker", 1, "Complete")], [], [])
    assert (found.phase, found.reason) == ("gone", "done")
    assert finished(job("head", 1, "Failed"))
    assert not finished(job("head", 1, "Suspended"))


# -- anything -------------------------------------------------------------------------------------

_REASONS = st.sampled_from(
    ["FailedMount", "Pulling", "Failed", "FailedCreate", "FailedScheduling", "Unheard"]
)
_EVENTS = st.lists(st.builds(event, _REASONS, st.text(max_size=30)), max_size=4)
_WAITING = st.sampled_from(["ErrImagePull", "ImagePullBackOff", "CreateContainerError", "Unheard"])
_STATUS = st.one_of(
    st.builds(waiting, _WAITING, st.text(max_size=30)),
    st.builds(ended, st.integers(0, 255), st.text(max_size=9), st.text(max_size=30)),
    st.builds(unscheduled, st.text(max_size=30)),
    st.fixed_dictionaries({"phase": st.text(max_size=9)}),
)


@given(_STATUS, _EVENTS, st.booleans())
def test_any_state_of_a_pod_has_a_phase_and_a_sentence(status, events, scheduled):
    found = explain(pod(status, node="n" if scheduled else ""), events)
    assert found.phase in ("pending", "running", "gone")
    assert found.reason or found.phase == "running"
    assert "\n" not in found.reason


@given(_EVENTS.flatmap(st.permutations))
def test_events_are_read_in_their_order_however_they_come(events):
    assert [e["lastTimestamp"] for e in in_order(events)] == sorted(
        e["lastTimestamp"] for e in events
    )
