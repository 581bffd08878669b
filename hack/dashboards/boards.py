"""The three dashboards: for users, for whoever runs the fleet, and of the operator itself."""

from dashboards.definition import EACH, LEGEND, OURS, RATE, Dashboard, Panel, Query, Row


def of_each(metric: str, function: str = "max", more: str = "") -> str:
    """A metric of the chosen deployments, one series for each, whichever operator exposes it."""
    selector = f"{OURS}, {more}" if more else OURS
    return f"{function} by ({EACH}) ({metric}{{{selector}}})"


def rate_of(metric: str, labels: str = EACH, selector: str = OURS) -> str:
    return f"sum by ({labels}) (rate({metric}{{{selector}}}[{RATE}]))"


DEPLOYMENT = "flash_operator_deployment"

USERS = Dashboard(
    file="users",
    title="DeepSeek-Flash: service",
    text="Is it fast, is it right, and how loaded is it?",
    rows=(
        Row(
            "Is it fast?",
            (
                Panel(
                    "Decode speed of the slowest replica",
                    "One stream, as the gate measured it. Below its floor, a replica is not Ready.",
                    (
                        Query(of_each(f"{DEPLOYMENT}_decode_tokens_per_second"), LEGEND),
                        Query(of_each(f"{DEPLOYMENT}_decode_floor_tokens_per_second"), f"floor of {LEGEND}"),
                    ),
                ),
                Panel(
                    "Time to the first token, mean",
                    "Of users' requests, waiting included. It grows with the queue and with long prompts.",
                    (
                        Query(
                            f"{rate_of('vllm:time_to_first_token_seconds_sum')} / "
                            f"{rate_of('vllm:time_to_first_token_seconds_count')}",
                            LEGEND,
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    "Time between tokens, 95th percentile",
                    "Of users' requests. It grows with the number of streams, and while prompts are read.",
                    (
                        Query(
                            "histogram_quantile(0.95, "
                            f"{rate_of('vllm:inter_token_latency_seconds_bucket', f'{EACH}, le')})",
                            LEGEND,
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    "Decode speed of each replica",
                    "The gate's last measurement. One replica below the others: look at its node.",
                    (Query(f"max by (pod) (flash_gate_decode_tokens_per_second{{{OURS}}})", "{{pod}}"),),
                ),
                Panel(
                    "First token of each replica",
                    "The gate's last measurement, of a short prompt on an idle engine.",
                    (Query(f"max by (pod) (flash_gate_first_token_seconds{{{OURS}}})", "{{pod}}"),),
                    unit="s",
                ),
                Panel(
                    "Decode speed under traffic",
                    "Of all streams of a replica together.",
                    (Query(rate_of("vllm:generation_tokens_total", "pod"), "{{pod}}"),),
                ),
            ),
        ),
        Row(
            "Is it right?",
            (
                Panel(
                    "Replicas by verdict",
                    "Passed and EngineStarting are fine. Each other reason is explained in docs/reference.md.",
                    (Query(f"sum by (reason) ({DEPLOYMENT}_verdict_replicas{{{OURS}}})", "{{reason}}"),),
                ),
                Panel(
                    "Accepted drafts",
                    "The lowest share of any replica. Zero: the MTP head is dead.",
                    (Query(of_each(f"{DEPLOYMENT}_acceptance_ratio", "min"), LEGEND),),
                    unit="percentunit",
                ),
                Panel(
                    "Tokens of a step",
                    "The lowest mean acceptance length of any replica. One: speculation gives nothing.",
                    (Query(of_each(f"{DEPLOYMENT}_acceptance_length_tokens", "min"), LEGEND),),
                ),
                Panel(
                    "Accepted drafts by position",
                    "It falls with the position, because a token counts only if all before it do.",
                    (Query(f"avg by (position) (flash_gate_acceptance_position_ratio{{{OURS}}})", "{{position}}"),),
                    unit="percentunit",
                ),
                Panel(
                    "Warnings",
                    "Replicas that serve although a feature does not work, or a long prompt is slow.",
                    (Query(f"sum by (reason) (flash_gate_warning{{{OURS}}})", "{{reason}}"),),
                ),
                Panel(
                    "Hung or quarantined replicas",
                    "Zero, unless replicas became slow or stopped while they served.",
                    (
                        Query(f"sum(flash_gate_hung{{{OURS}}})", "hung"),
                        Query(f"sum({DEPLOYMENT}_quarantined_replicas{{{OURS}}})", "out of service"),
                        Query(f"sum({DEPLOYMENT}_quarantine_waiting_replicas{{{OURS}}})", "slow, still in service"),
                    ),
                ),
            ),
        ),
        Row(
            "How loaded is it?",
            (
                Panel(
                    "Requests on the engines",
                    "Waiting ones show that more replicas are needed.",
                    (
                        Query(of_each("vllm:num_requests_running", "sum"), f"{LEGEND} running"),
                        Query(of_each("vllm:num_requests_waiting", "sum"), f"{LEGEND} waiting"),
                    ),
                ),
                Panel(
                    "Replicas",
                    "Ready ones reach the wanted ones once those that load have passed. Demand above: scale up.",
                    (
                        Query(of_each(f"{DEPLOYMENT}_wanted_replicas"), f"{LEGEND} wanted"),
                        Query(of_each(f"{DEPLOYMENT}_ready_replicas"), f"{LEGEND} ready"),
                        Query(of_each(f"{DEPLOYMENT}_loading_replicas"), f"{LEGEND} loading"),
                        Query(of_each(f"{DEPLOYMENT}_demand_replicas"), f"{LEGEND} demand"),
                    ),
                ),
                Panel(
                    "KV cache in use",
                    "Near one, requests are preempted or wait.",
                    (Query(f"max by (pod) (vllm:kv_cache_usage_perc{{{OURS}}})", "{{pod}}"),),
                    unit="percentunit",
                ),
                Panel(
                    "Tokens a second",
                    "Generated, and read from prompts.",
                    (
                        Query(rate_of("vllm:generation_tokens_total"), f"{LEGEND} generated"),
                        Query(rate_of("vllm:prompt_tokens_total"), f"{LEGEND} prompts"),
                    ),
                ),
                Panel(
                    "Finished requests a second",
                    "The throughput that users see.",
                    (Query(rate_of("vllm:request_success_total"), LEGEND),),
                    unit="reqps",
                ),
                Panel(
                    "Requests that wait at zero",
                    "Held by the activators of all deployments until a replica serves.",
                    (
                        Query("sum(flash_activator_waiting_requests)", "waiting"),
                        Query("sum(flash_activator_held_requests)", "waiting or passed on"),
                    ),
                ),
            ),
        ),
    ),
)

FLEET = Dashboard(
    file="fleet",
    title="DeepSeek-Flash: fleet",
    text="Nodes, links, verdicts, flags and updates.",
    rows=(
        Row(
            "Deployments",
            (
                Panel(
                    "Ready",
                    "Deployments that are Ready.",
                    (Query(f"sum({of_each(f'{DEPLOYMENT}_ready')})", "ready"),),
                    kind="number",
                    width=4,
                ),
                Panel(
                    "Not Ready",
                    "Zero, unless something loads or is broken.",
                    (Query(f"count({of_each(f'{DEPLOYMENT}_ready')} == 0) or vector(0)", "not ready"),),
                    kind="number",
                    width=4,
                ),
                Panel(
                    "Silent gates",
                    "Zero. Else a network policy, a node or a gate is in the way.",
                    (Query(f"sum({of_each(f'{DEPLOYMENT}_silent_gates')})", "silent"),),
                    kind="number",
                    width=4,
                ),
                Panel(
                    "Replicas by verdict",
                    "Passed and EngineStarting are fine.",
                    (Query(f"sum by (reason) ({DEPLOYMENT}_verdict_replicas{{{OURS}}})", "{{reason}}"),),
                    width=12,
                ),
                Panel(
                    "Time from creation to Ready",
                    "The first time. Downloading the model is part of it.",
                    (Query(of_each(f"{DEPLOYMENT}_first_ready_seconds"), LEGEND),),
                    unit="s",
                    kind="table",
                    width=12,
                ),
                Panel(
                    "Not Ready, by name",
                    "`kubectl describe dsf NAME` says why.",
                    (Query(f"{of_each(f'{DEPLOYMENT}_ready')} == 0", LEGEND),),
                    kind="table",
                    width=12,
                ),
            ),
        ),
        Row(
            "Nodes and links",
            (
                Panel(
                    "Nodes with two GPUs",
                    "Ready and not cordoned. Without one, no replica can start.",
                    (Query("max(flash_operator_nodes_with_two_gpus)", "nodes"),),
                    kind="number",
                ),
                Panel(
                    "GPUs by node",
                    "What pods can get. It falls when a card is lost.",
                    (Query("max by (node) (flash_operator_node_gpus)", "{{node}}"),),
                ),
                Panel(
                    "Nodes by verdict on their links",
                    "verified is best. hang and corrupt are faults of the host.",
                    (
                        Query(
                            "count by (p2p) (max by (node, link, p2p) (flash_operator_node_links_info))",
                            "{{p2p}}",
                        ),
                    ),
                ),
                Panel(
                    "Links",
                    "Of each node, with the verdict.",
                    (Query("max by (node, link, p2p) (flash_operator_node_links_info)", "{{node}} {{link}} {{p2p}}"),),
                    kind="table",
                    width=24,
                ),
            ),
        ),
        Row(
            "Flags, updates and rollouts",
            (
                Panel(
                    "Replicas with outdated flags",
                    "Their node's labels call for others: take the update.",
                    (Query(of_each(f"{DEPLOYMENT}_outdated_flags_replicas"), LEGEND),),
                ),
                Panel(
                    "Deployments by state of their update",
                    "Available: somebody has to take it. Rejected: it was slower.",
                    (Query(f"count by (state) (max by ({EACH}, state) ({DEPLOYMENT}_update{{{OURS}}}))", "{{state}}"),),
                ),
                Panel(
                    "Deployments by state of their rollout",
                    "RolledBack: what the spec asks for does not run.",
                    (
                        Query(
                            f"count by (state) (max by ({EACH}, state) ({DEPLOYMENT}_rollout{{{OURS}}}))", "{{state}}"
                        ),
                    ),
                ),
                Panel(
                    "Rollbacks in a day",
                    "Each is an attempt that failed or was slower than what ran.",
                    (Query(f"sum by ({EACH}) (increase({DEPLOYMENT}_rollbacks_total{{{OURS}}}[1d]))", LEGEND),),
                ),
            ),
        ),
    ),
)

OPERATORS_OWN = "and on (job, instance) flash_operator_leader"
OPERATOR = Dashboard(
    file="operator",
    title="DeepSeek-Flash: operator",
    text="Does it lead, does it keep up, and what does it ask of the API server?",
    by_deployment=False,
    rows=(
        Row(
            "Does it lead?",
            (
                Panel(
                    "Leaders",
                    "One. Zero: nothing is reconciled.",
                    (Query("sum(flash_operator_leader)", "leaders"),),
                    kind="number",
                ),
                Panel(
                    "Time since the last resync",
                    "Of the leader. More than a few times resyncSeconds: it is stuck, and its probe fails.",
                    (
                        Query(
                            "time() - max(flash_operator_last_resync_timestamp_seconds)",
                            "seconds",
                        ),
                    ),
                    unit="s",
                    kind="number",
                ),
                Panel(
                    "Deployments without metrics",
                    "Zero, unless there are more than the most that have them.",
                    (Query("max(flash_operator_deployments_without_metrics)", "deployments"),),
                    kind="number",
                ),
            ),
        ),
        Row(
            "Does it keep up?",
            (
                Panel(
                    "Reconciles a second",
                    "error: the API server refused something. bug: see the log.",
                    (
                        Query(
                            rate_of("flash_operator_reconcile_seconds_count", "kind, result", ""),
                            "{{kind}} {{result}}",
                        ),
                    ),
                    unit="ops",
                ),
                Panel(
                    "Time of a reconcile",
                    "Milliseconds, unless the API server is slow.",
                    (
                        Query(
                            "histogram_quantile(0.5, "
                            f"{rate_of('flash_operator_reconcile_seconds_bucket', 'kind, le', '')})",
                            "{{kind}} median",
                        ),
                        Query(
                            "histogram_quantile(0.99, "
                            f"{rate_of('flash_operator_reconcile_seconds_bucket', 'kind, le', '')})",
                            "{{kind}} 99th percentile",
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    "Queue",
                    "Short. Failing ones are tried again, at most a minute later.",
                    (
                        Query("max(flash_operator_workqueue_depth)", "waiting"),
                        Query("max(flash_operator_workqueue_failing)", "failing"),
                    ),
                ),
                Panel(
                    "Age of the oldest key",
                    "Near zero. After ten minutes the process is restarted.",
                    (Query("max(flash_operator_workqueue_oldest_seconds)", "seconds"),),
                    unit="s",
                ),
                Panel(
                    "Requests to gates a second",
                    "timeout: packets are dropped. failed: a port is closed, as while a pod starts.",
                    (Query(rate_of("flash_operator_gate_looks_total", "result", ""), "{{result}}"),),
                    unit="reqps",
                ),
            ),
        ),
        Row(
            "What does it cost?",
            (
                Panel(
                    "API requests a second, by verb",
                    "Without those for the lease, which are one a second.",
                    (
                        Query(
                            rate_of("flash_operator_api_requests_total", "verb", 'resource!="leases"'),
                            "{{verb}}",
                        ),
                    ),
                    unit="reqps",
                ),
                Panel(
                    "API requests a second, by code",
                    "403: a right is missing. 409: two writers. 429 and 5xx: the server is overloaded.",
                    (Query(rate_of("flash_operator_api_requests_total", "code", ""), "{{code}}"),),
                    unit="reqps",
                ),
                Panel(
                    "CPU",
                    "Of each operator, in cores.",
                    (
                        Query(
                            f"rate(process_cpu_seconds_total[{RATE}]) {OPERATORS_OWN}",
                            "{{instance}}",
                        ),
                    ),
                ),
                Panel(
                    "Memory",
                    "Of each operator. The chart's limit is 512 MiB.",
                    (Query(f"process_resident_memory_bytes {OPERATORS_OWN}", "{{instance}}"),),
                    unit="bytes",
                ),
            ),
        ),
    ),
)

DASHBOARDS = (USERS, FLEET, OPERATOR)
