import dataclasses
import pickle
import typing


@dataclasses.dataclass
class Point:
    x: int
    y: "typing.ClassVar[int]" = 2


point = pickle.loads(pickle.dumps(Point(1)))
print(point, Point.__module__, typing.get_type_hints(Point))
