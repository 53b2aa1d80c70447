"""What a person does to a system, running or stopped: look at groups, seek, pause, rename, redrive, adopt a store.

Most are functions of a `Running` that was opened with `join=False`. They write to stores and tell engines; a process
that runs the groups notices by itself, within a heartbeat.
"""

from evenflow.operate.auditing import Entry, audit
from evenflow.operate.carrying import Exported, export, move_out
from evenflow.operate.editing import Edit, carry_out_edit, plan_edit, plan_restore
from evenflow.operate.finding import Home, NotFound, home, homes, orphans
from evenflow.operate.importing import Import, Unfit, carry_out_import, plan_import
from evenflow.operate.letters import Attempt, Letter, Story, Touch, dead_lanes, story
from evenflow.operate.lot import By, Count, LaneDetail, Page, Place, count_by, dead_head, find, lane, lane_at, parked
from evenflow.operate.moving import Move, MovePlan, carry_out_move, plan_move
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
from evenflow.operate.parked_filter import Filter
from evenflow.operate.pausing import pause, resume
from evenflow.operate.payload import Change, EditInvalid, changed, whole, with_fields
from evenflow.operate.placing import Part, Placed, placed
from evenflow.operate.recurring import (
    Recurring,
    pause_schedule,
    recurring,
    resume_schedule,
    run_schedule,
)
from evenflow.operate.redriving import (
    Asked,
    Detail,
    Lane,
    Overlap,
    Preview,
    ask,
    cancel_operation,
    discard,
    operation_named,
    operations,
    pause_operation,
    preview,
    redrive,
    resume_operation,
)
from evenflow.operate.rehearsal import Alike, Rehearsal, Tried, rehearse
from evenflow.operate.schedules import Later, Scheduled, cancel, later, scheduled
from evenflow.operate.schema import Step, StorePlan, apply_migrations, plan_migrations
from evenflow.operate.seeking import Plan, To, carry_out, plan_seek, seek
from evenflow.operate.status import GroupDetail, GroupStatus, PartitionStatus, group, groups
from evenflow.operate.stores import adopt
from evenflow.redrive.operation import Operation, Pace

__all__ = [
    "Alike", "Asked", "Attempt", "By", "Change", "Count", "Detail", "Dropped", "Edit", "EditInvalid", "Entry",
    "Exported", "Filter", "GroupDetail", "GroupStatus", "Home", "Import", "Lane", "LaneDetail", "Later", "Letter",
    "Move", "MovePlan", "NotFound", "Operation", "Overlap", "Pace", "Page", "Part", "PartitionStatus", "Place",
    "Placed", "Plan", "Preview", "Recurring", "Rehearsal", "Rename", "Scheduled", "Step", "StorePlan", "Story", "To",
    "Touch", "Tried", "Unfit", "adopt", "apply_migrations", "ask", "audit", "cancel", "cancel_operation", "carry_out",
    "carry_out_drop", "carry_out_edit", "carry_out_import", "carry_out_move", "carry_out_rename", "changed",
    "count_by", "dead_head", "dead_lanes", "discard", "drop", "export", "find", "group", "groups", "home", "homes",
    "lane", "lane_at", "later", "move_out", "operation_named", "operations", "orphans", "parked", "pause",
    "pause_operation", "pause_schedule", "placed", "plan_drop", "plan_edit", "plan_import", "plan_migrations",
    "plan_move", "plan_rename", "plan_restore", "plan_seek", "preview", "recurring", "redrive", "rehearse", "rename",
    "resume", "resume_operation", "resume_schedule", "run_schedule", "scheduled", "seek", "story", "whole",
    "with_fields",
]  # fmt: skip
