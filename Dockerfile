# The suite with its pinned packages; mount data and runs:
#   docker run --gpus all --shm-size 8g -v $PWD/data:/data:ro -v $PWD/runs:/home/jdc/runs jdcsuite run \
#     +experiment=fllic data.root=/data
#   docker run -v $PWD:/home/jdc/images jdcsuite compress images/noisy.png -o images/noisy.jdc
# The folders must be writable for user 1000, or give --user. BASE: any image with Python 3.11 or 3.12 and apt.
ARG BASE=python:3.12-slim
FROM ${BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# the packages are a layer of their own, which a change of the suite does not rebuild
WORKDIR /suite
COPY pyproject.toml constraints.txt ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
    && python3 -m venv /opt/jdc \
    && /opt/jdc/bin/pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY conf conf
COPY experiments/flagship/weights experiments/flagship/weights
COPY src src
RUN /opt/jdc/bin/pip install --no-cache-dir --constraint constraints.txt . && rm -rf /suite \
    && useradd --create-home --uid 1000 jdc
ENV PATH=/opt/jdc/bin:$PATH
USER jdc
WORKDIR /home/jdc
ENTRYPOINT ["jdc"]
CMD ["--help"]
