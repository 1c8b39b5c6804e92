FROM fedora-like
RUN rpm -i --nodeps /repo/rpm/noarch/keeper-1-1.noarch.rpm
