"""The files with which a gateway pod starts: where the operator is, and nothing about users.

``python -m llmrollouts.traffic.bootstrap --namespace NS`` prints the Envoy bootstrap; ``--file``
prints one of the other files. docs/gateway.md says where the chart mounts them. Decides nothing at
run time.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from llmrollouts.traffic.document import Document, typed
from llmrollouts.traffic.names import LAYER
from llmrollouts.traffic.tls import XDS_SERVICE

ENVOY_FILE: Final = "envoy.yaml"
CERTIFICATE_FILE: Final = "tls-certificate.yaml"
AUTHORITY_FILE: Final = "tls-authority.yaml"
DRAIN_FILE: Final = "drain.py"
FILES: Final = (ENVOY_FILE, CERTIFICATE_FILE, AUTHORITY_FILE, DRAIN_FILE)

CONFIG_FOLDER: Final = "/etc/llmrollouts/gateway"
TLS_FOLDER: Final = "/etc/llmrollouts/tls"

_XDS_CLUSTER: Final = "xds"
_ADMIN_CLUSTER: Final = "admin"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What differs between installations.

    xds: (host, port) of the operator's replicas; a name is resolved again and again, and all its
        addresses are tried. server_name: the DNS name that the operator's certificate must have;
        None for no TLS (tests on loopback only).
    config_folder, tls_folder: where the pod finds these files, and the Secret.
    """

    xds: tuple[tuple[str, int], ...]
    server_name: str | None
    listen_port: int = 8080
    status_port: int = 8081
    admin_port: int = 9901
    config_folder: str = CONFIG_FOLDER
    tls_folder: str = TLS_FOLDER


def make_bootstrap(wanted: Bootstrap) -> Document:
    """The Envoy bootstrap. The node's id is given on the command line (--service-node)."""
    ads: Document = {
        "resource_api_version": "V3",
        "ads": {},
        # Without a time limit the gateway stays not ready until it knows everything. With one it
        # would say that it is ready, and answer 404 to users.
        "initial_fetch_timeout": "0s",
    }
    operator: list[Document] = [
        {
            "envoy_grpc": {
                "cluster_name": _XDS_CLUSTER,
                # Back with a new leader within a second or two; the default takes up to 30 s.
                "retry_policy": {"retry_back_off": {"base_interval": "0.2s", "max_interval": "1s"}},
            }
        }
    ]
    return {
        # Tells the operator which port this gateway's users come to.
        "node": {"cluster": "llm-rollouts", "metadata": {"listen_port": wanted.listen_port}},
        "admin": {"address": _address("127.0.0.1", wanted.admin_port)},
        "cluster_manager": {
            "load_stats_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": operator,
            }
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": operator,
            },
            "lds_config": ads,
            "cds_config": ads,
        },
        # No layer that a person could change by hand stands above the shares.
        "layered_runtime": {
            "layers": [
                {"name": "static", "static_layer": {}},
                {"name": LAYER, "rtds_layer": {"name": LAYER, "rtds_config": ads}},
            ]
        },
        "static_resources": {
            "listeners": [_make_status_listener(wanted)],
            "clusters": [_make_xds_cluster(wanted), _make_admin_cluster(wanted)],
        },
    }


def make_secret(wanted: Bootstrap, name: str) -> Document:
    """The file by which Envoy finds a part of the mounted Secret, and finds it again when it is
    renewed: the kubelet replaces the whole folder, which ``watched_directory`` notices."""
    folder = wanted.tls_folder
    if name == AUTHORITY_FILE:
        secret: Document = {
            "name": "authority",
            "validation_context": {
                "trusted_ca": {"filename": f"{folder}/ca.crt"},
                "watched_directory": {"path": folder},
                "match_typed_subject_alt_names": [
                    {"san_type": "DNS", "matcher": {"exact": wanted.server_name}}
                ],
            },
        }
    else:
        secret = {
            "name": "certificate",
            "tls_certificate": {
                "certificate_chain": {"filename": f"{folder}/tls.crt"},
                "private_key": {"filename": f"{folder}/tls.key"},
                "watched_directory": {"path": folder},
            },
        }
    return {
        "resources": [
            typed("envoy.extensions.transport_sockets.tls.v3.Secret", **secret),
        ]
    }


def render(wanted: Bootstrap, name: str) -> str:
    """The text of one of FILES."""
    if name == DRAIN_FILE:
        return Path(__file__).with_name("drain.py").read_text()
    document = make_bootstrap(wanted) if name == ENVOY_FILE else make_secret(wanted, name)
    return yaml.safe_dump(document, sort_keys=False, width=100)


def _make_xds_cluster(wanted: Bootstrap) -> Document:
    cluster: Document = {
        "name": _XDS_CLUSTER,
        "cluster_type": {
            "name": "envoy.clusters.dns",
            "typed_config": typed(
                "envoy.extensions.clusters.dns.v3.DnsCluster",
                dns_refresh_rate="2s",
                dns_failure_refresh_rate={"base_interval": "0.5s", "max_interval": "2s"},
                dns_lookup_family="ALL",
            ),
        },
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: typed(
                _HTTP_OPTIONS,
                explicit_http_config={
                    "http2_protocol_options": {
                        # A frozen leader is noticed within 4 s.
                        "connection_keepalive": {"interval": "2s", "timeout": "2s"}
                    }
                },
            )
        },
        "load_assignment": {
            "cluster_name": _XDS_CLUSTER,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": _address(host, port)}} for host, port in wanted.xds
                    ]
                }
            ],
        },
    }
    if wanted.server_name is not None:
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": typed(
                "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                sni=wanted.server_name,
                common_tls_context={
                    # As a client Envoy would offer no more than 1.2.
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_3",
                        "tls_maximum_protocol_version": "TLSv1_3",
                    },
                    "alpn_protocols": ["h2"],
                    "tls_certificate_sds_secret_configs": [
                        _make_sds(wanted, "certificate", CERTIFICATE_FILE)
                    ],
                    "validation_context_sds_secret_config": _make_sds(
                        wanted, "authority", AUTHORITY_FILE
                    ),
                },
            ),
        }
    return cluster


def _make_sds(wanted: Bootstrap, name: str, file: str) -> Document:
    path = f"{wanted.config_folder}/{file}"
    return {
        "name": name,
        "sds_config": {"resource_api_version": "V3", "path_config_source": {"path": path}},
    }


def _make_admin_cluster(wanted: Bootstrap) -> Document:
    return {
        "name": _ADMIN_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": _ADMIN_CLUSTER,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": _address("127.0.0.1", wanted.admin_port)}}
                    ]
                }
            ],
        },
    }


def _make_status_listener(wanted: Bootstrap) -> Document:
    """/ready and /stats/prometheus for the kubelet and Prometheus; nothing else of the admin
    interface can be reached from outside the pod."""
    return {
        "name": "status",
        "address": _address("0.0.0.0", wanted.status_port),  # noqa: S104 - the pod's probe port
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": typed(
                            "envoy.extensions.filters.network.http_connection_manager.v3"
                            ".HttpConnectionManager",
                            stat_prefix="status",
                            codec_type="AUTO",
                            route_config={
                                "name": "status",
                                "virtual_hosts": [
                                    {
                                        "name": "status",
                                        "domains": ["*"],
                                        "routes": [
                                            _status_route("/ready"),
                                            _status_route("/stats/prometheus"),
                                        ],
                                    }
                                ],
                            },
                            http_filters=[
                                {
                                    "name": "envoy.filters.http.router",
                                    "typed_config": typed(
                                        "envoy.extensions.filters.http.router.v3.Router"
                                    ),
                                }
                            ],
                        ),
                    }
                ]
            }
        ],
    }


def _status_route(path: str) -> Document:
    return {
        "match": {
            "path": path,
            "headers": [{"name": ":method", "string_match": {"exact": "GET"}}],
        },
        "route": {"cluster": _ADMIN_CLUSTER, "timeout": "5s"},
    }


def _address(host: str, port: int) -> Document:
    return {"socket_address": {"address": host, "port_value": port}}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Print a file with which a gateway starts.")
    parser.add_argument("--namespace", required=True, help="where the operator runs")
    parser.add_argument("--service", default=XDS_SERVICE, help="the operator's headless Service")
    parser.add_argument("--port", type=int, default=18000, help="the operator's xDS port")
    parser.add_argument("--listen-port", type=int, default=8080)
    parser.add_argument("--status-port", type=int, default=8081)
    parser.add_argument("--admin-port", type=int, default=9901)
    parser.add_argument("--config-folder", default=CONFIG_FOLDER)
    parser.add_argument("--tls-folder", default=TLS_FOLDER)
    parser.add_argument("--file", choices=FILES, default=ENVOY_FILE)
    args = parser.parse_args(arguments)
    host = f"{args.service}.{args.namespace}.svc"
    wanted = Bootstrap(
        xds=((host, args.port),),
        server_name=host,
        listen_port=args.listen_port,
        status_port=args.status_port,
        admin_port=args.admin_port,
        config_folder=args.config_folder,
        tls_folder=args.tls_folder,
    )
    sys.stdout.write(render(wanted, args.file))


if __name__ == "__main__":
    main()
