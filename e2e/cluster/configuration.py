"""What each program of the single node is told: files and arguments. Pure.

The node (node.py) writes the files and starts the programs; a changed text here makes the next
`make cluster` start the programs concerned again.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import places as at
from e2e.cluster.places import Places

SERVER = f"https://{at.NODE_ADDRESS}:6443"


@dataclass(frozen=True)
class Component:
    """One program of the node, in the words needed to start, probe and stop it."""

    name: str
    arguments: tuple[str, ...]
    health: str  # an address that answers 200 when the program is ready, seen from the host
    ready_within: float  # seconds
    stop_within: float  # seconds before it is killed
    configuration: tuple[str, ...] = ()  # texts of its files: a change means a restart


def make_containerd_config(places: Places, pause_image: str) -> str:
    """containerd 1.6, version 2 of its file. `restrict_oom_score_adj`: without it pods stay
    ContainerCreating wherever the machine refuses to lower oom_score_adj."""
    return f'''version = 2
root = "{places.containerd_root}"
state = "{places.run}/containerd"
[grpc]
  address = "{places.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  sandbox_image = "{pause_image}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{places.cluster}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
'''


def make_cni_config(places: Places) -> str:
    """Point-to-point links: all traffic between pods is routed, so Services work without the
    kernel's bridge netfilter module, which many small kernels lack."""
    network = {
        "cniVersion": "1.0.0",
        "name": "llmr",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(places.cluster / "cni-addresses"),
                    "ranges": [[{"subnet": at.NODE_POD_RANGE}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    return json.dumps(network, indent=2) + "\n"


def make_kubelet_config(places: Places) -> str:
    """JSON is YAML. `failCgroupV1` off: the last kubelet that runs on version 1 of cgroups."""
    pki = places.pki
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{at.CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{places.containerd_socket}",
        "oomScoreAdj": 0,
        "clusterDNS": [at.DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "authentication": {
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
            "webhook": {"enabled": True},
            "anonymous": {"enabled": False},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet.key",
        "resolvConf": "",
        "healthzBindAddress": at.NODE_ADDRESS,
        "evictionHard": {
            "memory.available": "200Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,  # images are expensive here: never collected
        "maxPods": 250,
        "podLogsDir": str(places.cluster / "pod-logs"),
        "serializeImagePulls": False,
    }
    return json.dumps(config, indent=2) + "\n"


def make_kubeconfig(pki: Path, user: str) -> str:
    """A kubeconfig that holds its certificates, so the file can be copied anywhere."""

    def data(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "llmr",
        "clusters": [
            {
                "name": "llmr",
                "cluster": {"server": SERVER, "certificate-authority-data": data("ca.crt")},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": data(f"{user}.crt"),
                    "client-key-data": data(f"{user}.key"),
                },
            }
        ],
        "contexts": [{"name": "llmr", "context": {"cluster": "llmr", "user": user}}],
    }
    return json.dumps(config, indent=2) + "\n"


def list_components(places: Places, files: dict[str, str]) -> tuple[Component, ...]:
    """Every program of the node in the order in which they start.

    `files`: the texts of the configuration files, by name, as written below the cluster folder.
    """
    c, pki, node = places.cluster, places.pki, at.NODE_ADDRESS
    # The texts of certificates count as configuration: new ones must be read by everyone.
    trust = files["certificates"]

    def kubernetes(name: str, *flags: str) -> tuple[str, ...]:
        return (str((places.bin / name).resolve()), *flags)

    return (
        Component(
            "etcd",
            (
                "etcd",
                f"--data-dir={c}/etcd",
                # Only the API server, in the same namespace, may talk to it.
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
                f"--listen-metrics-urls=http://{node}:2381",
                # A test cluster: quick writes; what a power cut breaks, `up` rebuilds.
                "--unsafe-no-fsync",
                "--auto-compaction-retention=1",
            ),
            health=f"http://{node}:2381/health",
            ready_within=30,
            stop_within=10,
        ),
        Component(
            "containerd",
            ("containerd", "--config", f"{c}/containerd.toml"),
            health=f"unix://{places.containerd_socket}",
            ready_within=30,
            stop_within=10,
            configuration=(files["containerd.toml"],),
        ),
        Component(
            "kube-apiserver",
            kubernetes(
                "kube-apiserver",
                "--etcd-servers=http://127.0.0.1:2379",
                f"--advertise-address={node}",
                "--bind-address=0.0.0.0",
                "--secure-port=6443",
                f"--tls-cert-file={pki}/apiserver.crt",
                f"--tls-private-key-file={pki}/apiserver.key",
                f"--client-ca-file={pki}/ca.crt",
                f"--kubelet-client-certificate={pki}/admin.crt",
                f"--kubelet-client-key={pki}/admin.key",
                f"--kubelet-certificate-authority={pki}/ca.crt",
                "--kubelet-preferred-address-types=InternalIP",  # node0 is in no DNS
                f"--service-account-key-file={pki}/service-accounts.key",
                f"--service-account-signing-key-file={pki}/service-accounts.key",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                f"--service-cluster-ip-range={at.SERVICE_RANGE}",
            ),
            health=f"{SERVER}/readyz",
            ready_within=120,
            stop_within=15,
            configuration=(trust,),
        ),
        Component(
            "kube-controller-manager",
            kubernetes(
                "kube-controller-manager",
                f"--kubeconfig={c}/controller-manager.kubeconfig",
                f"--root-ca-file={pki}/ca.crt",
                f"--cluster-signing-cert-file={pki}/ca.crt",
                f"--cluster-signing-key-file={pki}/ca.key",
                f"--service-account-private-key-file={pki}/service-accounts.key",
                "--use-service-account-credentials=true",
                "--leader-elect=false",
                f"--cluster-cidr={at.POD_RANGE}",
                "--allocate-node-cidrs=false",
                "--kube-api-qps=100",
                "--kube-api-burst=200",
            ),
            health=f"https://{node}:10257/healthz",
            ready_within=60,
            stop_within=5,
            configuration=(trust,),
        ),
        Component(
            "kube-scheduler",
            kubernetes(
                "kube-scheduler",
                f"--kubeconfig={c}/scheduler.kubeconfig",
                "--leader-elect=false",
            ),
            health=f"https://{node}:10259/healthz",
            ready_within=60,
            stop_within=5,
            configuration=(trust,),
        ),
        Component(
            "kubelet",
            kubernetes(
                "kubelet",
                f"--config={c}/kubelet.json",
                f"--kubeconfig={c}/kubelet.kubeconfig",
                f"--hostname-override={at.NODE_NAME}",
                f"--node-ip={node}",
                f"--root-dir={c}/kubelet",
            ),
            health=f"http://{node}:10248/healthz",
            ready_within=60,
            stop_within=10,
            configuration=(files["kubelet.json"], files["cni/10-llmr.conflist"], trust),
        ),
        Component(
            # After kubelet: it waits half a minute for a node that does not exist yet.
            "kube-proxy",
            kubernetes(
                "kube-proxy",
                f"--kubeconfig={c}/proxy.kubeconfig",
                "--proxy-mode=iptables",
                f"--cluster-cidr={at.POD_RANGE}",
                f"--hostname-override={at.NODE_NAME}",
                "--iptables-min-sync-period=100ms",
                # Limits of the whole machine's connection table are not this cluster's to set.
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0",
            ),
            health=f"http://{node}:10256/livez",
            ready_within=60,
            stop_within=5,
            configuration=(trust,),
        ),
    )
