FROM suse-like
RUN zypper --non-interactive addrepo --no-gpgcheck file:///repo/rpm keeper
RUN zypper --non-interactive --no-gpg-checks install -y keeper
