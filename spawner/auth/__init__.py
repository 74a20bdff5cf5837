"""Who gets in: tokens on the login page, sessions that end with them, and the door for `gpulab token`.

Owns the numbers and names that hub and command line must share, and the settings that bring the sign-in up. Never
imports the hub, so that the command line starts fast.
"""

from __future__ import annotations

from typing import Any

DAY = 86_400
DEFAULT_TOKEN_SECONDS = 30 * DAY
# A token without an end would outlive the person's time in the team; a year is the longest that anyone may ask for.
MAX_TOKEN_SECONDS = 366 * DAY
# How long a browser stays signed in, if its token lives that long.
SESSION_DAYS = 14

# JupyterHub lets only admins make admins, and its admin role would give the command line every right there is. This
# scope opens `handlers.SignInHandler` and nothing else.
SIGN_IN_SCOPE = "custom:gpulab:sign-in"
CLI_SCOPES = (SIGN_IN_SCOPE,)
SIGN_IN_PATH = "gpulab/sign-in"

NAME_PATTERN = r"[a-z0-9]([a-z0-9._@+-]{0,62}[a-z0-9])?"
NAME_RULE = (
    "A name has 1 to 64 of the characters a-z, 0-9, '.', '_', '@', '+' and '-', and begins and ends with a letter or a digit."
)


def configure_token_sign_in(c: Any) -> None:
    """Set JupyterHub's options for the sign-in by token.

    Args:
        c: JupyterHub's configuration object.
    """
    c.JupyterHub.authenticator_class = "spawner.auth.token.TokenAuthenticator"
    c.JupyterHub.cookie_max_age_days = SESSION_DAYS
    c.JupyterHub.token_expires_in_max_seconds = MAX_TOKEN_SECONDS
    c.JupyterHub.custom_scopes = {
        **c.JupyterHub.get("custom_scopes", {}),
        SIGN_IN_SCOPE: {"description": "Make people, hand out their sign-in tokens, and take them back."},
    }
    # JupyterHub's own REST API refuses bad names with this as well.
    c.Authenticator.username_pattern = rf"{NAME_PATTERN}\Z"
