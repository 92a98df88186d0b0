"""What is over can be found by when it ended: retention looks for the oldest, a few at a time."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The index."""
    op.execute("CREATE INDEX period_over ON galactic.period (upper(during)) WHERE NOT upper_inf(during)")
