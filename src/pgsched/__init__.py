"""pgsched: a durable task scheduler in your own Postgres."""

from pgsched.configuration import load_settings
from pgsched.control import ScheduleControl
from pgsched.cron import CronGenerator
from pgsched.dispatcher import ScheduleDispatcher
from pgsched.errors import (
    ConfigError,
    Conflict,
    Invalid,
    MigrationError,
    NotFound,
    PgschedError,
    Unavailable,
)
from pgsched.external import ExternalSystemClient
from pgsched.lifecycle import LifecycleService
from pgsched.models import (
    ReportAnswer,
    ScheduledTask,
    ScheduleType,
    StatusReport,
    TaskDefinition,
    TaskInstance,
    TaskStatus,
)
from pgsched.queues import BulkResult
from pgsched.scanner import ScheduleScanner
from pgsched.scheduler import SchedulerService
from pgsched.settings import Settings
from pgsched.worker import Worker

__all__ = [
    "BulkResult",
    "ConfigError",
    "Conflict",
    "CronGenerator",
    "ExternalSystemClient",
    "Invalid",
    "LifecycleService",
    "MigrationError",
    "NotFound",
    "PgschedError",
    "ReportAnswer",
    "ScheduleControl",
    "ScheduleDispatcher",
    "ScheduleScanner",
    "ScheduleType",
    "ScheduledTask",
    "SchedulerService",
    "Settings",
    "StatusReport",
    "TaskDefinition",
    "TaskInstance",
    "TaskStatus",
    "Unavailable",
    "Worker",
    "load_settings",
]
