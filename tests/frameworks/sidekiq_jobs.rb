# Sidekiq's jobs: loaded by its server, and by sidekiq_driver.rb to push them.
require 'sidekiq'

# Jobs from this number on are those that run while shards die.
JOBS = Integer(ENV.fetch('JOBS'))

# What a block gives, or :refused when a shard was not there.
def refused_or
  yield
rescue Redis::BaseError => error
  closes = ENV.fetch('SHARD_ERRORS') == 'close'
  said = closes ? /\bSHARDPARTIAL |\bLOADING / : /\bSHARD(DOWN|LOST|TIMEOUT|PARTIAL) |\bLOADING /
  raise unless error.message.match?(said) || closes && error.is_a?(Redis::BaseConnectionError)
  :refused
end

url = { url: "redis://127.0.0.1:#{ENV.fetch('REDIS_PORT')}/0" }
Sidekiq.configure_client { |config| config.redis = url }
Sidekiq.configure_server do |config|
  config.redis = url
  config.options[:poll_interval_average] = 1
end

# Writes down that it ran, outside Redis and in it.
class Job
  include Sidekiq::Worker
  sidekiq_options retry: false

  def perform(number)
    File.write(ENV.fetch('EXECUTED'), "#{number}\n", mode: 'a')
    count = -> { Sidekiq.redis { |redis| redis.incr("executed:#{number}") } }
    number < JOBS ? count.call : refused_or(&count)
  end
end

# A job of another queue.
class Urgent < Job
  sidekiq_options queue: 'urgent', retry: false
end
