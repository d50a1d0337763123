import asyncio


async def main():
    process = await asyncio.create_subprocess_exec("echo", "from a child", stdout=-1)
    print((await process.communicate())[0])
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))
    async with asyncio.timeout(5):
        print(await asyncio.to_thread(sum, [1, 2]))


asyncio.run(main())
