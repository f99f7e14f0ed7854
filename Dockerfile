# The suite with its pinned packages; docs/cluster.md has commands that build and run it. BASE: an image with apt and
# Python 3.11 or 3.12, its venv and its headers.
ARG BASE=python:3.12-slim
FROM ${BASE}
# for trainer.compile
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
# the packages are a layer of their own, which a change of the suite does not rebuild
WORKDIR /suite
COPY pyproject.toml constraints.txt ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
    && python3 -m venv /opt/jdc \
    && /opt/jdc/bin/pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt hatchling
COPY README.md LICENSE ./
COPY conf conf
COPY experiments/flagship/weights experiments/flagship/weights
COPY src src
# the commit, which a clone tells by git, is here a part of the version
ARG COMMIT
RUN sed --in-place "s/^version = \"[^\"]*/&${COMMIT:++g$COMMIT}/" pyproject.toml \
    && /opt/jdc/bin/pip install --no-cache-dir --no-deps --no-build-isolation . && rm -rf /suite \
    && useradd --create-home --uid 1000 jdc && chmod 1777 /home/jdc
# any user's programs find a folder for their caches
ENV HOME=/home/jdc PATH=/opt/jdc/bin:$PATH
USER jdc
WORKDIR /home/jdc
ENTRYPOINT ["jdc"]
CMD ["--help"]
