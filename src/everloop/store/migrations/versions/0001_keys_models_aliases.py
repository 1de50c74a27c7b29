"""Keys, models, and aliases with OpenAI's names, old and new."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Exact names are listed by /v1/models; a prefix with * also catches dated and later variants.
OPENAI_NAMES = """
gpt-5 gpt-5-mini gpt-5-nano gpt-5.1 gpt-5.2 gpt-5.3 gpt-5.4 gpt-5.4-mini gpt-5* gpt-6*
gpt-4.1 gpt-4.1-mini gpt-4.1-nano gpt-4.1* gpt-4.5*
gpt-4o gpt-4o-mini gpt-4o* chatgpt-4o-latest chatgpt-*
gpt-4 gpt-4-turbo gpt-4-32k gpt-4-*
gpt-3.5-turbo gpt-3.5-turbo-16k gpt-3.5-turbo-instruct gpt-3.5-turbo*
codex-mini-latest o1 o1-mini o1-pro o1-* o3 o3-mini o3-pro o3-* o4-mini o4-mini-*
davinci davinci-002 davinci-instruct-beta babbage babbage-002 curie curie-instruct-beta ada
text-davinci-001 text-davinci-002 text-davinci-003 text-curie-001 text-babbage-001 text-ada-001
text-davinci-edit-001 code-davinci-edit-001 code-davinci-002 code-cushman-001
text-embedding-ada-002 text-embedding-3-small text-embedding-3-large text-embedding-*
omni-moderation-latest omni-moderation-* text-moderation-stable text-moderation-latest
"""


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("hint", sa.String, nullable=False),
        sa.Column("created", sa.Integer, nullable=False),
        sa.Column("revoked", sa.Integer),
    )
    op.create_table(
        "models",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("base", sa.String),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("created", sa.Integer, nullable=False),
        sa.Column("removed", sa.Integer),
    )
    aliases = op.create_table(
        "aliases",
        sa.Column("alias", sa.String, primary_key=True),
        sa.Column("target", sa.String, nullable=False),
    )
    op.bulk_insert(aliases, [{"alias": name, "target": "default"} for name in OPENAI_NAMES.split()])
