"""What a person does to a system, running or stopped: look at groups, seek, pause, rename, redrive, adopt a store.

Most are functions of a `Running` that was opened with `join=False`. They write to stores and tell engines; a process
that runs the groups notices by itself, within a heartbeat.
"""

from evenflow.operate.finding import Home, NotFound, home, homes, orphans
from evenflow.operate.lot import LaneDetail, discard, lane, lane_at, parked, redrive
from evenflow.operate.naming import (
    Dropped,
    Rename,
    carry_out_drop,
    carry_out_rename,
    drop,
    plan_drop,
    plan_rename,
    rename,
)
from evenflow.operate.pausing import pause, resume
from evenflow.operate.schedules import Later, Scheduled, cancel, later, scheduled
from evenflow.operate.schema import Step, StorePlan, apply_migrations, plan_migrations
from evenflow.operate.seeking import Plan, To, carry_out, plan_seek, seek
from evenflow.operate.status import GroupDetail, GroupStatus, PartitionStatus, group, groups
from evenflow.operate.stores import adopt

__all__ = [
    "Dropped", "GroupDetail", "GroupStatus", "Home", "LaneDetail", "Later", "NotFound", "PartitionStatus", "Plan",
    "Rename", "Scheduled", "Step", "StorePlan", "To", "adopt", "apply_migrations", "cancel", "carry_out",
    "carry_out_drop", "carry_out_rename", "discard", "drop", "group", "groups", "home", "homes", "lane", "lane_at",
    "later", "orphans", "parked", "pause", "plan_drop", "plan_migrations", "plan_rename", "plan_seek", "redrive",
    "rename", "resume", "scheduled", "seek",
]  # fmt: skip
