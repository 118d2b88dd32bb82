"""Prints what the benchmarks recorded beside their times, such as environment steps per second."""


def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    recorded = [benchmark for benchmark in session.benchmarks if benchmark.extra_info] if session else []
    if not recorded:
        return
    terminalreporter.section("recorded by the benchmarks")
    width = max(len(benchmark.name) for benchmark in recorded)
    for group in sorted({benchmark.group for benchmark in recorded}, key=str):
        terminalreporter.write_line(group or "no group")
        for benchmark in recorded:
            if benchmark.group == group:
                figures = ", ".join(f"{name} {value}" for name, value in benchmark.extra_info.items())
                terminalreporter.write_line(f"  {benchmark.name:<{width}}  {figures}")
